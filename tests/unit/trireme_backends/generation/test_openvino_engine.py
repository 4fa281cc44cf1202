"""What becomes of requests when a pipeline fails: the pipeline is scripted, since the real one fails on no command."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import numpy as np
import pytest
from trireme_backends.errors import ModelError
from trireme_backends.generation import openvino_engine
from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.errors import EngineError, GenerationError, OverloadedError
from trireme_backends.generation.openvino_engine import OpenVinoEngine
from trireme_backends.generation.openvino_pipeline import Load
from trireme_backends.generation.openvino_settings import OpenVinoSettings
from trireme_backends.generation.sampling import SamplingParameters

from tests.deadlines import scaled

# A hang guard, not a measure.
DEADLINE_SECONDS = scaled(10.0)


class Handle:
    """Counts from 1 to its request's limit, a token a step."""

    def __init__(self, limit: int) -> None:
        self.limit, self.made, self.waiting, self.cancelled = limit, 0, [], False

    def can_read(self) -> bool:
        return bool(self.waiting)

    def read(self):
        output = SimpleNamespace(generated_ids=self.waiting, generated_log_probs=[0.0], finish_reason=self.made)
        self.waiting = []
        return {0: output}

    def cancel(self) -> None:
        self.cancelled = True


class Pipeline:
    """Fails at the request whose prompt is ``fail``."""

    fails_to_load = False

    def __init__(self, _weights, _settings) -> None:
        if self.fails_to_load:
            raise ModelError("no memory")
        self.handles, self.broken = [], False

    def prompt_ids(self, request):
        self.broken = self.broken or request.prompt == "fail"
        return np.zeros((1, 3), np.int64)

    def decode(self, tokens):
        return "".join(chr(96 + token) for token in tokens)

    def add(self, _number, _prompt, _sampling, max_tokens):
        self.handles.append(Handle(max_tokens))
        return self.handles[-1]

    def step(self) -> None:
        if self.broken:
            raise RuntimeError("books are wrong\nat some line")
        self.handles = [handle for handle in self.handles if not handle.cancelled and handle.made < handle.limit]
        for handle in self.handles:
            handle.made += 1
            handle.waiting.append(handle.made)

    def is_busy(self) -> bool:
        return any(handle.made < handle.limit and not handle.cancelled for handle in self.handles)

    def load(self) -> Load:
        return Load(len(self.handles), 0.5)

    def has_finished(self, handle) -> bool:
        return handle.made >= handle.limit

    def finish_reason(self, made):
        return "length" if made >= 3 else None


@pytest.fixture
def engine(monkeypatch, tmp_path):
    monkeypatch.setattr(openvino_engine, "OpenVinoPipeline", Pipeline)
    settings = OpenVinoSettings(model="m", max_model_len=64, kv_cache_tokens=64, max_num_seqs=1, max_waiting=1)
    engine = OpenVinoEngine(tmp_path, settings)
    yield engine
    engine.close()


def submit(engine, prompt: str, **sampling):
    told: queue.Queue = queue.Queue()
    parameters = SamplingParameters(max_tokens=3, **sampling)
    request = GenerationRequest("", prompt, None, True, parameters, False, frozenset())
    engine.submit(request, told.put)
    return told


def text_of(told) -> str:
    text = ""
    while True:
        piece = told.get(timeout=DEADLINE_SECONDS)
        if isinstance(piece, GenerationError):
            raise piece
        text += piece.text
        if piece.finish_reason:
            return text


def test_tokens_become_pieces(engine):
    assert text_of(submit(engine, "a")) == "abc"
    assert text_of(submit(engine, "a", stop=("b",))) == "a"


def test_a_failed_step_costs_the_requests_in_it_and_the_next_is_served(engine):
    with pytest.raises(EngineError, match=r"starts anew: books are wrong$"):
        text_of(submit(engine, "fail"))
    assert text_of(submit(engine, "a")) == "abc"


def test_an_engine_that_does_not_start_anew_says_so_to_everybody(engine, monkeypatch):
    monkeypatch.setattr(Pipeline, "fails_to_load", True)
    with pytest.raises(EngineError, match="starts anew"):
        text_of(submit(engine, "fail"))
    engine._thread.join(DEADLINE_SECONDS)
    with pytest.raises(EngineError, match="did not start anew: no memory"):
        submit(engine, "a")


def test_more_than_may_wait_is_refused_as_overload(engine, monkeypatch):
    monkeypatch.setattr(Handle, "can_read", lambda _: False)
    monkeypatch.setattr(Pipeline, "has_finished", lambda *_: False)
    submit(engine, "a")
    submit(engine, "a")
    with pytest.raises(OverloadedError, match="2 requests run or wait"):
        submit(engine, "a")


def test_closing_tells_those_who_wait(engine, monkeypatch):
    monkeypatch.setattr(Handle, "can_read", lambda _: False)
    monkeypatch.setattr(Pipeline, "has_finished", lambda *_: False)
    told = submit(engine, "a")
    engine.close()
    with pytest.raises(EngineError, match="unloaded"):
        text_of(told)
