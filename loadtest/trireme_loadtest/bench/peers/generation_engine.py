"""One engine in its own process, without a server: the baseline of the comparison.

It runs in the engine's environment and imports nothing of this project. Its arguments are the engine's name, the
model's path, a number of threads and the content of ``model.json`` as JSON. It prints ``ready``, and then responds to
each line of stdin, ``{"requests": [{"prompt": ..., "tokens": ...}], "streams": 4, "seconds": 10}``, with one line: the
elapsed seconds and, for each request, when it was sent and when its tokens arrived.

Requests are sent in order, repeatedly, ``streams`` of them at a time.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

_KV_BLOCK_TOKENS = 32


class StreamLoad:
    """A closed loop: each stream sends its next request when its last one is complete."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._requests = itertools.cycle(job["requests"])
        self.streams, self.seconds = job["streams"], job["seconds"]
        self.streams_sent: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._began

    def left(self) -> float:
        return float(self.seconds - self.now())

    def send(self) -> tuple[dict[str, Any], list[float]]:
        """The next request, sent now, and the list for the times of its tokens."""
        moments: list[float] = []
        self.streams_sent.append({"sent": self.now(), "tokens": moments})
        return next(self._requests), moments


def openvino(path: str, threads: int, arguments: dict[str, Any], *, lookup: bool) -> Callable[[StreamLoad], None]:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    # As in the served model, so that the rows differ by the server alone.
    scheduler.cache_size, scheduler.num_kv_blocks = 0, arguments.get("kv_cache_tokens", 16384) // _KV_BLOCK_TOKENS
    scheduler.max_num_seqs = arguments.get("max_num_seqs", 16)
    scheduler.max_num_batched_tokens = arguments.get("max_num_batched_tokens", 128)
    scheduler.enable_prefix_caching = arguments.get("enable_prefix_caching", True)
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, **({"prompt_lookup": True} if lookup else {})}
    pipeline = openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU", properties)
    numbers = itertools.count()

    def run(load: StreamLoad) -> None:
        running: list[tuple[Any, list[float]]] = []
        while load.left() > 0:
            while len(running) < load.streams:
                request, moments = load.send()
                config = openvino_genai.GenerationConfig(max_new_tokens=request["tokens"], ignore_eos=True)
                config.apply_chat_template = False
                if lookup:
                    config.num_assistant_tokens, config.max_ngram_size = 5, 3
                running.append((pipeline.add_request(next(numbers), request["prompt"], config), moments))
            pipeline.step()
            for handle, moments in running:
                while handle.can_read():
                    for output in handle.read().values():
                        moments += [load.now()] * len(output.generated_ids)
            running = [(h, m) for h, m in running if h.get_status() == openvino_genai.GenerationStatus.RUNNING]
        for handle, _ in running:
            handle.cancel()
        while pipeline.has_non_finished_requests():
            pipeline.step()

    return run


def vllm(path: str, arguments: dict[str, Any]) -> Callable[[StreamLoad], None]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    engine = LLMEngine.from_engine_args(EngineArgs(**{"disable_log_stats": True, **arguments, "model": path}))
    numbers = itertools.count()

    def run(load: StreamLoad) -> None:
        running: dict[str, list[float]] = {}
        while load.left() > 0:
            while len(running) < load.streams:
                request, moments = load.send()
                name = str(next(numbers))
                sampling = SamplingParams(temperature=0, max_tokens=request["tokens"], ignore_eos=True)
                engine.add_request(name, request["prompt"], sampling)
                running[name] = moments
            for output in engine.step():
                moments = running[output.request_id]
                moments += [load.now()] * (len(output.outputs[0].token_ids) - len(moments))
                if output.finished:
                    del running[output.request_id]
        engine.abort_request(list(running))
        while engine.has_unfinished_requests():
            engine.step()

    return run


def transformers(path: str, threads: int, *, batch: bool) -> Callable[[StreamLoad], None]:
    """Plain ``generate``: one request after the other, or all waiting ones in one batch until its longest is done.

    A running batch is completed, however long that takes: its first token may arrive after the end.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        AutoModelForCausalLM,
        AutoTokenizer,
    )
    from transformers.generation.streamers import BaseStreamer  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    class Clock(BaseStreamer):  # type: ignore[misc,unused-ignore]
        """Records when each step of a batch ends; its first call receives the prompts."""

        def __init__(self, load: StreamLoad, taken: list[tuple[dict[str, Any], list[float]]]) -> None:
            self._load, self._taken, self._steps = load, taken, -1

        def put(self, value: Any) -> None:  # noqa: ARG002
            self._steps += 1
            for request, moments in self._taken:
                if 0 < self._steps <= request["tokens"]:
                    moments.append(self._load.now())

        def end(self) -> None:
            pass

    def run(load: StreamLoad) -> None:
        waiting = [load.send() for _ in range(load.streams)]
        while load.left() > 0:
            taken, waiting = (waiting, []) if batch else (waiting[:1], waiting[1:])
            inputs = tokenizer([request["prompt"] for request, _ in taken], return_tensors="pt", padding=True)
            most = max(request["tokens"] for request, _ in taken)
            with torch.inference_mode():
                model.generate(
                    **inputs, do_sample=False, min_new_tokens=most, max_new_tokens=most,
                    max_time=None if batch else load.left(), streamer=Clock(load, taken),
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            waiting += [load.send() for _ in taken]

    return run


def _jobs() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    engine, path, threads, arguments = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
    # Output of libraries must not mix with the results.
    answers, sys.stdout = sys.stdout, sys.stderr
    run = {
        "openvino_genai": lambda: openvino(path, threads, arguments, lookup=False),
        "openvino_genai+lookup": lambda: openvino(path, threads, arguments, lookup=True),
        "vllm": lambda: vllm(path, arguments),
        "transformers": lambda: transformers(path, threads, batch=False),
        "transformers+batch": lambda: transformers(path, threads, batch=True),
    }[engine]()
    print("ready", file=answers, flush=True)
    for job in _jobs():
        load = StreamLoad(job)
        run(load)
        print(json.dumps({"seconds": load.now(), "streams": load.streams_sent}), file=answers, flush=True)


if __name__ == "__main__":
    main()
