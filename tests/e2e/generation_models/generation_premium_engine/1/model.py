"""A language model without weights: says the words of its prompt again, one a token, at the pace of ``voice.json``.

The word ``version?`` it answers with its version.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils
from trireme_backends.generation.contract import read_request, response_tensors
from trireme_backends.generation.engine import Piece
from trireme_backends.generation.errors import GenerationError


class TritonPythonModel:
    def initialize(self, args):
        version_dir = Path(args["model_repository"]) / args["model_version"]
        self.version = args["model_version"]
        self.voice = json.loads((version_dir / "voice.json").read_text())

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self._answer, args=(request, request.get_response_sender()), daemon=True).start()

    def _answer(self, request, sender):
        try:
            for tensors in self._pieces(request, sender):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in tensors]))
        except GenerationError as error:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _pieces(self, request, sender):
        def tensor(name):
            found = pb_utils.get_input_tensor_by_name(request, name)
            return None if found is None else found.as_numpy()

        asked = read_request(request.request_id(), tensor)
        prompt = asked.prompt if asked.messages is None else asked.messages[-1].content
        words = [self.voice["prefix"] + word.replace("version?", self.version) for word in prompt.split()]
        most = asked.sampling.max_tokens
        said, reason = words[:most], "stop" if len(words) <= most else "length"
        told = []
        for index, word in enumerate(said):
            time.sleep(self.voice["ms_per_token"] / 1000)
            if sender.is_cancelled():
                return
            last = index == len(said) - 1
            piece = Piece(word if last else word + " ", len(words), 1, reason if last else None)
            if asked.stream:
                yield response_tensors(asked, piece)
            else:
                told.append(piece.text)
        if not asked.stream:
            yield response_tensors(asked, Piece("".join(told), len(words), len(told), reason))
