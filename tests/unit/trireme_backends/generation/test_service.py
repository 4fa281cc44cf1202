from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from trireme_backends.generation.engine import Chunk, EngineState, TokenLogprob
from trireme_backends.generation.errors import CancelledError, GenerationError, OverloadedError
from trireme_backends.generation.service import GenerationService

from tests.deadlines import scaled

# Guards against hangs only.
DEADLINE_SECONDS = scaled(10.0)


class ScriptedEngine:
    """Sends its chunks to each request; with None, waits for a cancellation."""

    def __init__(self, chunks) -> None:
        self.chunks = chunks
        self.requests = []

    def submit(self, request, sink):
        if isinstance(self.chunks, GenerationError):
            raise self.chunks
        self.requests.append(request)
        self.sink = sink
        for chunk in self.chunks or ():
            sink(chunk)
        return self

    def cancel(self) -> None:
        self.sink(CancelledError("gone"))

    def state(self) -> EngineState:
        return EngineState(0, 0)

    def close(self) -> None:
        pass


class RecordingObserver:
    """Records errors and counts tokens."""

    def __init__(self) -> None:
        self.errors, self.tokens = [], 0

    def accepted(self, request) -> None:
        pass

    def rejected(self, error) -> None:
        self.errors.append(error.kind)

    def failed(self, _request, error) -> None:
        self.rejected(error)

    def generated(self, _request, chunk) -> None:
        self.tokens += chunk.num_output_tokens

    def state(self, state) -> None:
        pass


class RecordingReply:
    def __init__(self) -> None:
        self.responses, self.error, self.cancelled = [], None, False
        self.ended = threading.Event()

    def send(self, tensors, *, final) -> None:
        self.responses.append({name: value[0] for name, value in tensors})
        if final:
            self.ended.set()

    def fail(self, error) -> None:
        self.error = error
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.cancelled


ALL = {f"return_{name}": True for name in ("finish_reason", "num_input_tokens", "num_output_tokens", "logprobs")}
CHUNKS = [
    Chunk("He", 3, 1, None, ((TokenLogprob(5, "He", -0.5),),), -0.5),
    Chunk("", 3, 1),
    Chunk("llo", 3, 1, "stop", ((TokenLogprob(6, "llo", -0.25),),), -0.75),
]


@pytest.fixture
def send():
    services = []

    def send(engine, **inputs) -> RecordingReply:
        observer = RecordingObserver()
        service = GenerationService(engine, observer)
        services.append(service)
        tensors = {
            name: np.array([value]) if isinstance(value, bool) else np.array([value.encode()], np.object_)
            for name, value in inputs.items()
        }
        reply = RecordingReply()
        reply.observer = observer
        service.accept("r", tensors.get, reply)
        return reply

    yield send
    for service in services:
        service.close()


def test_chunks_are_sent_at_once_and_those_without_text_with_the_next(send):
    reply = send(ScriptedEngine(CHUNKS), text_input="Hi", stream=True, **ALL)
    assert [response["text_output"] for response in reply.responses] == [b"He", b"llo"]
    assert [response["num_output_tokens"] for response in reply.responses] == [1, 2]
    assert [response["finish_reason"] for response in reply.responses] == [b"None", b"stop"]


def test_without_streaming_there_is_one_response_that_starts_with_the_prompt_unless_excluded(send):
    (response,) = send(ScriptedEngine(CHUNKS), text_input="Hi: ", **ALL).responses
    assert response["text_output"] == b"Hi: Hello"
    assert (response["num_input_tokens"], response["num_output_tokens"]) == (3, 3)
    assert [list(token) for token in json.loads(response["logprobs"])] == [["5"], ["6"]]
    (response,) = send(ScriptedEngine(CHUNKS), text_input="Hi: ", exclude_input_in_output=True).responses
    assert response == {"text_output": b"Hello"}


def test_the_output_for_messages_does_not_contain_them(send):
    engine = ScriptedEngine(CHUNKS)
    (response,) = send(engine, messages='[{"role":"user","content":"Hi"}]').responses
    assert response["text_output"] == b"Hello"
    assert engine.requests[0].messages[0].content == "Hi"
    rejected = send(engine, messages='[{"role":"user","content":"Hi"}]', exclude_input_in_output=False)
    assert rejected.error.param == "exclude_input_in_output"


def test_rejection_and_failure_are_sent_once_and_counted(send):
    for engine in (ScriptedEngine(OverloadedError("full")), ScriptedEngine([OverloadedError("full")])):
        reply = send(engine, text_input="Hi")
        assert (str(reply.error), reply.observer.errors) == ("overloaded: full", ["overloaded"])


def test_an_exception_of_an_engine_fails_one_request(send):
    engine = ScriptedEngine(3)
    assert str(send(engine, text_input="Hi").error).startswith("engine_failed: TypeError")


def test_the_request_of_a_disconnected_caller_is_cancelled_in_the_engine(send):
    reply = send(ScriptedEngine(None), text_input="Hi")
    reply.cancelled = True
    assert reply.ended.wait(DEADLINE_SECONDS)
    assert reply.error.kind == "cancelled"
