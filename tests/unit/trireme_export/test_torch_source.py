"""Tests that need PyTorch, which is 200 MB, run with ``make test-all`` only; the error without it is always tested."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
from trireme.errors import SetupError, TriremeError
from trireme_export import gates
from trireme_export.forward import load_tokenizer, onnx_forward
from trireme_export.graph import encoder_graph
from trireme_export.recipe import ParityGate, Precision
from trireme_export.torch_source import load_torch, torch_forward, trace

from tests.unit.trireme_export.tiny import tiny_tokenizer


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as Python marks a module that cannot be found
    with pytest.raises(SetupError, match=r"needs the extra \[export\].*to fix it: pip install"):
        load_torch(Path("model"), 18)


def module(view: tuple[int, ...] | None):
    """An encoder with dropout and masked mixing; ``view`` reshapes its output."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(64, 8)
            self.layer = torch.nn.Linear(8, 8)
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, input_ids, attention_mask):
            mask = attention_mask.unsqueeze(-1).to(torch.float32)
            rows = self.words(input_ids)
            mean = (rows * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
            hidden = self.dropout(self.layer(rows + mean))
            return hidden if view is None else hidden.view(*view)

    torch.manual_seed(0)
    return Encoder()


@pytest.mark.slow
def test_traced_graph_accepts_every_batch_and_length_and_equals_its_module(tmp_path):
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    encoder = module(None)
    graph = encoder_graph(trace(encoder, 18, longest=512), "tiny")

    parity = gates.measure_parity(
        torch_forward(encoder), onnx_forward(graph), load_tokenizer(tmp_path / "tokenizer.json", 64), "tiny"
    )

    gates.check_parity(parity, ParityGate(max_abs_diff=1e-5), Precision.FP32, "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("view", [(1, -1, 8), (2, -1, 8), (1, -1)])
def test_module_with_a_fixed_batch_is_rejected(view):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns about these shapes
        with pytest.raises(TriremeError, match=r"is fixed at|cannot be traced|must have exactly one output"):
            encoder_graph(trace(module(view), 18, longest=512), "tiny")
