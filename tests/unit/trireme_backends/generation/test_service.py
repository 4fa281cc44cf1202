from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from trireme_backends.generation.engine import EngineState, Piece, TokenLogprob
from trireme_backends.generation.errors import CancelledError, GenerationError, OverloadedError
from trireme_backends.generation.service import GenerationService

from tests.deadlines import scaled

# A hang guard, not a measure.
DEADLINE_SECONDS = scaled(10.0)


class ScriptedEngine:
    """Tells each request the pieces it was made with; None waits to be cancelled."""

    def __init__(self, pieces) -> None:
        self.pieces = pieces
        self.requests = []

    def submit(self, request, sink):
        if isinstance(self.pieces, GenerationError):
            raise self.pieces
        self.requests.append(request)
        self.sink = sink
        for piece in self.pieces or ():
            sink(piece)
        return self

    def cancel(self) -> None:
        self.sink(CancelledError("gone"))

    def state(self) -> EngineState:
        return EngineState(0, 0)

    def close(self) -> None:
        pass


class Notes:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.errors, self.tokens = [], 0

    def accepted(self, request) -> None:
        pass

    def refused(self, error) -> None:
        self.errors.append(error.word)

    def failed(self, _request, error) -> None:
        self.refused(error)

    def generated(self, _request, piece) -> None:
        self.tokens += piece.num_output_tokens

    def state(self, state) -> None:
        pass


class Collected:
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
PIECES = [
    Piece("He", 3, 1, None, ((TokenLogprob(5, "He", -0.5),),), -0.5),
    Piece("", 3, 1),
    Piece("llo", 3, 1, "stop", ((TokenLogprob(6, "llo", -0.25),),), -0.75),
]


@pytest.fixture
def ask():
    services = []

    def ask(engine, **inputs) -> Collected:
        notes = Notes()
        service = GenerationService(engine, notes)
        services.append(service)
        tensors = {
            name: np.array([value]) if isinstance(value, bool) else np.array([value.encode()], np.object_)
            for name, value in inputs.items()
        }
        reply = Collected()
        reply.notes = notes
        service.accept("r", tensors.get, reply)
        return reply

    yield ask
    for service in services:
        service.close()


def test_pieces_are_sent_as_they_come_and_those_without_text_with_the_next(ask):
    reply = ask(ScriptedEngine(PIECES), text_input="Hi", stream=True, **ALL)
    assert [response["text_output"] for response in reply.responses] == [b"He", b"llo"]
    assert [response["num_output_tokens"] for response in reply.responses] == [1, 2]
    assert [response["finish_reason"] for response in reply.responses] == [b"None", b"stop"]


def test_whole_answer_is_one_response_with_the_prompt_before_it_unless_that_is_excluded(ask):
    (response,) = ask(ScriptedEngine(PIECES), text_input="Hi: ", **ALL).responses
    assert response["text_output"] == b"Hi: Hello"
    assert (response["num_input_tokens"], response["num_output_tokens"]) == (3, 3)
    assert [list(token) for token in json.loads(response["logprobs"])] == [["5"], ["6"]]
    (response,) = ask(ScriptedEngine(PIECES), text_input="Hi: ", exclude_input_in_output=True).responses
    assert response == {"text_output": b"Hello"}


def test_messages_have_no_prompt_to_put_before_the_answer(ask):
    engine = ScriptedEngine(PIECES)
    (response,) = ask(engine, messages='[{"role":"user","content":"Hi"}]').responses
    assert response["text_output"] == b"Hello"
    assert engine.requests[0].messages[0].content == "Hi"
    refused = ask(engine, messages='[{"role":"user","content":"Hi"}]', exclude_input_in_output=False)
    assert refused.error.param == "exclude_input_in_output"


def test_refusal_and_failure_are_told_once_and_counted(ask):
    for engine in (ScriptedEngine(OverloadedError("full")), ScriptedEngine([OverloadedError("full")])):
        reply = ask(engine, text_input="Hi")
        assert (str(reply.error), reply.notes.errors) == ("overloaded: full", ["overloaded"])


def test_a_bug_of_an_engine_is_one_requests_error(ask):
    engine = ScriptedEngine(3)
    assert str(ask(engine, text_input="Hi").error).startswith("engine_failed: TypeError")


def test_a_caller_that_went_away_is_cancelled_in_the_engine(ask):
    reply = ask(ScriptedEngine(None), text_input="Hi")
    reply.cancelled = True
    assert reply.ended.wait(DEADLINE_SECONDS)
    assert reply.error.word == "cancelled"
