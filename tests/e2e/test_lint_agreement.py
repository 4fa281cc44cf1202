"""Lint's verdict on every case of the corpus against that of the real tritonserver."""

from __future__ import annotations

import contextlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from trireme.lint import Severity, lint
from trireme.processes.machine import Machine
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.server import ServerFlags, TritonServer
from trireme.settings import Settings
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.deadlines import scaled
from tests.lint_corpus.corpus import Case, all_cases
from tests.servers import throw_away_server

CORPUS_DIR = Path(__file__).parents[1] / "lint_corpus"
# The models of the corpus read nothing: a load that takes longer hangs.
HANG_DEADLINE_S = scaled(15.0)
BUSY_DEADLINE_S = scaled(60.0)
AGREEMENT_AIM = 0.95
# Each stays loaded, 40 MB, as unloading one takes longer than loading it.
CASES_PER_SERVER = 40


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the server made of one case: ``reason`` is empty when it loaded, ``lost`` where the server was gone."""

    case: Case
    reason: str
    lost: bool = False

    @property
    def loaded(self) -> bool:
        return not self.reason


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for case in all_cases():
        case.write(folder)
    return folder


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedRuntime:
    """The embedded runtime with the project's backends and the corpus's ``echo``."""
    own = EmbeddedRuntime.find(Settings.from_environment())
    backends = tmp_path_factory.mktemp("runtime") / "backends"
    shutil.copytree(own.backends_dir, backends, ignore=shutil.ignore_patterns("__pycache__", "lib"))
    (backends / "echo").mkdir()
    shutil.copy(CORPUS_DIR / "echo_model.py", backends / "echo" / "model.py")
    return replace(own, backends_dir=backends)


@pytest.fixture(scope="module", params=["every eighth", pytest.param("all", marks=pytest.mark.slow)])
def cases(request: pytest.FixtureRequest) -> list[Case]:
    return all_cases() if request.param == "all" else all_cases()[::8]


@pytest.fixture(scope="module")
def verdicts(cases: list[Case], repository: Path, runtime: EmbeddedRuntime) -> list[Verdict]:
    quiet = [case for case in cases if not case.breaks_server]
    batches = [quiet[first : first + CASES_PER_SERVER] for first in range(0, len(quiet), CASES_PER_SERVER)]
    found: list[Verdict] = []
    for batch in batches:
        with throw_away_server(_flags(repository), runtime) as server, ThreadPoolExecutor(2) as pool:
            found += pool.map(lambda case: _load(server, case, BUSY_DEADLINE_S), batch)
            if not server.is_alive():
                print(server.log_path.read_text(errors="replace")[-4000:])
    # A server with starved stubs may abort, and be none the wiser about the cases that were still to come.
    alone = [case for case in cases if case.breaks_server] + [verdict.case for verdict in found if verdict.lost]

    def load_alone(case: Case) -> Verdict:
        with throw_away_server(_flags(repository), runtime) as server:
            return _load(server, case, HANG_DEADLINE_S)

    # Those that hang use no core while their deadline passes.
    with ThreadPoolExecutor(3) as pool:
        judged_alone = list(pool.map(load_alone, alone))
    return [verdict for verdict in found if not verdict.lost] + judged_alone


def _flags(repository: Path) -> ServerFlags:
    return ServerFlags(repository, load_models=(), exit_on_error=False)


def _load(server: TritonServer, case: Case, deadline_s: float) -> Verdict:
    with contextlib.closing(InferenceServerClient(server.grpc_address)) as client:
        try:
            client.load_model(case.model, client_timeout=deadline_s)
        except InferenceServerException as error:
            lost = error.status() == "StatusCode.UNAVAILABLE"
            return Verdict(case, error.message() or "no reason", lost)
    return Verdict(case, "")


def test_lint_and_the_server_agree(verdicts: list[Verdict], repository: Path) -> None:
    disagreements = {
        verdict.case.model: verdict
        for verdict in verdicts
        if verdict.loaded != _passes(repository / verdict.case.model, verdict.case)
    }
    for name, verdict in disagreements.items():
        print(f"{name}: server: {verdict.reason or 'loads it'}; known: {verdict.case.disagrees or 'no'}")
    assert {name for name, verdict in disagreements.items() if not verdict.case.disagrees} == set()
    assert len(disagreements) <= (1 - AGREEMENT_AIM) * len(verdicts)


def _passes(folder: Path, case: Case) -> bool:
    """Whether lint expects the embedded server to load the model."""
    report = lint(folder, Machine(cores=2, gpus=case.machine_gpus))
    return report.passed and not report.of(Severity.NGC_ONLY)


def test_a_disagreement_that_is_gone_is_not_declared(verdicts: list[Verdict]) -> None:
    stale = [v.case.model for v in verdicts if v.case.disagrees and v.loaded == (v.case.good and not v.case.ngc_only)]
    assert stale == []
