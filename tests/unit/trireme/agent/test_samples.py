from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trireme.agent.samples import ProbeSamples, only_canaries_call
from trireme.repository.folders import ModelRepository

ENSEMBLE = """platform: "ensemble"
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "ANSWER" data_type: TYPE_STRING dims: [ 1 ] } ]
ensemble_scheduling { step [ {
  model_name: "worker" model_version: %d
  input_map { key: "TEXT" value: "TEXT" } output_map { key: "ANSWER" value: "ANSWER" }
} ] }
"""


@pytest.mark.parametrize(
    ("versions", "only"),
    [({3}, True), ({2}, False), ({2, 3}, False), ({1}, False), ({4}, False)],
    ids=["a canary's", "a canary's and a variant's", "one of each", "a variant's", "nobody's"],
)
def test_a_version_is_used_by_canaries_only_if_no_variant_pins_it(
    tmp_path: Path, versions: set[int], only: bool
) -> None:
    for name, pin in (("economy", 1), ("standard", 2), ("standard__canary", 3), ("economy__canary", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(ENSEMBLE % pin)
    assert only_canaries_call(ModelRepository(tmp_path), "worker", versions) is only


# Two variants with separate workers, one route, and a model without a route.
SAMPLES = ProbeSamples(
    loaded=frozenset(("route", "small", "large", "small_worker", "large_worker", "lonely")),
    steps={"small": frozenset(("small_worker",)), "large": frozenset(("large_worker",))},
    routes={"route": ("small", "large")},
)


@pytest.mark.parametrize(
    ("out", "failing", "missing", "lack"),
    [
        ((), (), (), ""),
        (("small_worker",), ("lonely",), (), ""),
        (("small",), (), ("lonely",), ""),
        ((), ("small_worker", "large_worker", "small", "large"), (), ""),
        (("small_worker", "large"), (), (), "route route has no ready variant"),
        (("small_worker",), (), ("large",), "route route has no ready variant"),
        (("route",), (), (), "route route is out of service"),
        ((), (), ("route",), "route route is out of service"),
        ((), ("route",), (), "route route fails: broken"),
        (("small", "route"), SAMPLES.loaded - {"small", "route"}, (), "no model is ready"),
    ],
)
def test_reason_why_a_replica_is_not_ready(
    out: tuple[str, ...], failing: tuple[str, ...], missing: tuple[str, ...], lack: str
) -> None:
    samples = replace(SAMPLES, loaded=SAMPLES.loaded - set(missing), missing=dict.fromkeys(missing, "unloaded"))
    assert samples.unready_reason(out, dict.fromkeys(failing, "broken")) == lack
