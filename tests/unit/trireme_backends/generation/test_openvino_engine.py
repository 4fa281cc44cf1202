"""Requests when a pipeline fails. The pipeline is a fake, because the real one cannot be made to fail."""

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

# Guards against hangs only.
DEADLINE_SECONDS = scaled(10.0)


class Handle:
    """Counts from 1 to the request's limit, one token per step."""

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
            raise RuntimeError("state is inconsistent\nat some line")
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
    received: queue.Queue = queue.Queue()
    parameters = SamplingParameters(max_tokens=3, **sampling)
    request = GenerationRequest("", prompt, None, True, parameters, False, frozenset())
    engine.submit(request, received.put)
    return received


def text_of(received) -> str:
    text = ""
    while True:
        chunk = received.get(timeout=DEADLINE_SECONDS)
        if isinstance(chunk, GenerationError):
            raise chunk
        text += chunk.text
        if chunk.finish_reason:
            return text


def test_tokens_become_pieces(engine):
    assert text_of(submit(engine, "a")) == "abc"
    assert text_of(submit(engine, "a", stop=("b",))) == "a"


def test_a_failed_step_fails_its_requests_and_the_next_request_is_served(engine):
    with pytest.raises(EngineError, match=r"restarts: state is inconsistent$"):
        text_of(submit(engine, "fail"))
    assert text_of(submit(engine, "a")) == "abc"


def test_an_engine_that_does_not_restart_fails_all_requests(engine, monkeypatch):
    monkeypatch.setattr(Pipeline, "fails_to_load", True)
    with pytest.raises(EngineError, match="failed and restarts"):
        text_of(submit(engine, "fail"))
    engine._thread.join(DEADLINE_SECONDS)
    with pytest.raises(EngineError, match="did not restart: no memory"):
        submit(engine, "a")


def test_requests_over_the_queue_limit_are_rejected_as_overload(engine, monkeypatch):
    monkeypatch.setattr(Handle, "can_read", lambda _: False)
    monkeypatch.setattr(Pipeline, "has_finished", lambda *_: False)
    submit(engine, "a")
    submit(engine, "a")
    with pytest.raises(OverloadedError, match="2 requests are running or queued"):
        submit(engine, "a")


def test_closing_fails_queued_requests(engine, monkeypatch):
    monkeypatch.setattr(Handle, "can_read", lambda _: False)
    monkeypatch.setattr(Pipeline, "has_finished", lambda *_: False)
    received = submit(engine, "a")
    engine.close()
    with pytest.raises(EngineError, match="unloaded"):
        text_of(received)
