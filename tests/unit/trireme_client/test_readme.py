"""The README's snippets run unchanged, on a fake server at the documented address.

The snippet about shared memory runs on the real server, in tests/e2e/test_client.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from trireme_client import FakeServer, TriremeClient

README = Path(__file__).parents[3] / "client" / "README.md"
SNIPPETS = [s for s in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "shared_memory" not in s]


@pytest.fixture(scope="module")
def server():
    with FakeServer() as fake:
        _add_models(fake)
        yield fake


def _add_models(fake):
    texts = {"TEXT": ("BYTES", [1])}
    route = {name: ("BYTES", [1]) for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")}

    def routed(rows, outputs):
        named = {"VARIANT": b"embedding_economy", "VARIANT_VERSION": b"1", "ROUTE_REASON": b"tier"}
        return {**outputs, **{name: np.full((rows, 1), value, object) for name, value in named.items()}}

    fake.add_model(
        "double", inputs={"X": ("FP32", [2])}, outputs={"Y": ("FP32", [2])}, max_batch_size=8,
        compute=lambda inputs: {"Y": inputs["X"] * 2},
    )  # fmt: skip
    fake.add_model(
        "count", inputs={"N": ("INT32", [1])}, outputs={"I": ("INT32", [1])},
        stream=lambda inputs: ({"I": [number]} for number in range(int(inputs["N"][0]))),
    )  # fmt: skip
    fake.add_model(
        "text_embedding", inputs=texts, outputs={"EMBEDDING": ("FP32", [384]), **route}, max_batch_size=64,
        compute=lambda inputs: routed(len(inputs["TEXT"]), {"EMBEDDING": np.ones((len(inputs["TEXT"]), 384))}),
    )  # fmt: skip
    fake.add_model(
        "text_classification", inputs=texts, max_batch_size=64,
        outputs={"LABEL": ("BYTES", [1]), "SCORE": ("FP32", [1]), "PROBABILITIES": ("FP32", [2]), **route},
        compute=lambda _: routed(1, {"LABEL": np.array([[b"positive"]], object), "SCORE": np.array([[0.9]]),
                                     "PROBABILITIES": np.array([[0.1, 0.9]])}),
    )  # fmt: skip
    fake.add_generation_model("text_generation", lambda _: [" a", " time"])


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_run(server, number):
    snippet = SNIPPETS[number].replace("127.0.0.1:8001", server.address)
    # Earlier snippets have imported this much.
    exec(compile(snippet, f"{README.name}, snippet {number + 1}", "exec"), {"TriremeClient": TriremeClient})


def test_there_are_snippets():
    assert len(SNIPPETS) >= 7
