"""A language model without weights, on the contract of all of them. A word is a token; the prompt is its script:

say=N        say N words, "w0 w1 ..."; without it the words of the prompt are said again
every_ms=M   a word every M milliseconds
fail_after=N the engine fails after N words; die_after=N its process dies
version?     says the version of the model

Beside it, ``voice.json`` may hold the manner of a version: ``ms_per_token`` for a word; ``prefix``, said before each
word; ``fails_on``, a word at which the engine fails; ``lacks``, a sampling parameter that it does not have.
"""

from __future__ import annotations

import json
import os
import re
import threading

import triton_python_backend_utils
from trireme_backends.generation.engine import Chunk, EngineState, TokenLogprob
from trireme_backends.generation.errors import CancelledError, EngineError, output_token_limit
from trireme_backends.generation.text_stream import StopStringFilter
from trireme_backends.generation.triton import GenerationModel

_SUPPORTED = {"max_tokens", "stop", "logprobs", "temperature", "top_p", "seed", "structured_outputs.json"}


class TritonPythonModel(GenerationModel):
    pb_utils = triton_python_backend_utils

    def load(self, model):
        return _Engine(model)


class _Engine:
    def __init__(self, model):
        self._context_tokens = model.integer("context_tokens", 8192)
        self._version = model.version_dir.name
        voice = model.version_dir / "voice.json"
        self._voice = json.loads(voice.read_text()) if voice.exists() else {}
        self._running = set()

    def submit(self, request, sink):
        request.sampling.require(_SUPPORTED - {self._voice.get("lacks")}, "scripted")
        script = request.prompt or " ".join(message.content for message in request.messages)
        room = output_token_limit(len(script.split()), request.sampling.max_tokens, self._context_tokens)
        script = script.replace("version?", self._version)
        generation = _Generation(request, script, self._voice, room, sink, self._running.discard)
        self._running.add(generation)
        generation.start()
        return generation

    def state(self):
        return EngineState(running=len(self._running), waiting=0)

    def close(self):
        for generation in list(self._running):
            generation.cancel()
            generation.join()


class _Generation(threading.Thread):
    def __init__(self, request, script, voice, room, sink, ended):
        super().__init__(daemon=True)
        self._request, self._sink, self._ended = request, sink, ended
        self._voice = voice
        self._orders = dict(re.findall(r"(say|every_ms|fail_after|die_after)=(\d+)", script))
        self._num_input_tokens = len(script.split())
        words = (
            [f"w{number}" for number in range(int(self._orders["say"]))] if "say" in self._orders else script.split()
        )
        if request.sampling.structured_outputs:
            words = ["{}"]
        self._words, self._cut = words[:room], len(words) > room
        self._cancelled = threading.Event()

    def cancel(self):
        self._cancelled.set()

    def run(self):
        try:
            for chunk in self._chunks():
                self._sink(chunk)
        finally:
            self._ended(self)

    def _chunks(self):
        stops = StopStringFilter(self._request.sampling.stop)
        for number, word in enumerate(self._words):
            if number == int(self._orders.get("die_after", -1)):
                os._exit(1)
            if number == int(self._orders.get("fail_after", -1)):
                yield EngineError("scripted failure")
                return
            if word == self._voice.get("fails_on"):
                yield EngineError("this version fails here")
                return
            pause_ms = float(self._orders.get("every_ms", self._voice.get("ms_per_token", 0)))
            if self._cancelled.wait(pause_ms / 1000):
                yield CancelledError("the caller went away")
                return
            said = self._voice.get("prefix", "") + word
            text = stops.push(said if number == 0 else f" {said}")
            last = number == len(self._words) - 1 or stops.stopped
            reason = ("length" if self._cut and not stops.stopped else "stop") if last else None
            yield Chunk(text + (stops.rest() if last else ""), self._num_input_tokens, 1, reason, self._logprobs(word))
            if last:
                return

    def _logprobs(self, word):
        if self._request.sampling.logprobs is None:
            return ()
        others = [TokenLogprob(2 + n, f"other{n}", -2.0 - n, 2 + n) for n in range(self._request.sampling.logprobs)]
        return ((TokenLogprob(1, word, -0.25, 1), *others),)
