"""Features of vLLM's engine beyond the conformance tests, in a stub of the real server."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest
from trireme.repository.folders import ModelRepository
from trireme.repository.golden import load_golden
from trireme_client import ClientError, InvalidRequestError
from tritonclient.utils import InferenceServerException

from tests.e2e.serving import wait_until
from tests.vllm.conftest import Generated, Stack

PROMPT = "List the first ten prime numbers:"


@pytest.fixture(scope="module")
def chat(stack: Stack) -> Iterator[Stack]:
    stack.load("chat")
    yield stack
    stack.unload("chat")


def test_the_exported_model_matches_its_golden_samples(stack: Stack) -> None:
    for name in ("generation_premium_engine", "generation_premium"):
        stack.load(name)
        (sample,) = load_golden(ModelRepository(stack.repository_dir).model(name))
        messages, sampling = (json.loads(sample.inputs[tensor][0]) for tensor in ("messages", "sampling_parameters"))
        generated = stack.generate(name, messages, **sampling)
        assert generated.text == sample.outputs["text_output"][0].decode()
    for name in ("generation_premium", "generation_premium_engine"):
        stack.unload(name)


@pytest.mark.slow
def test_requests_that_exceed_the_cache_wait_and_succeed(chat: Stack) -> None:
    """Eight times 310 tokens, with blocks for 2048."""

    def story(number: int) -> Callable[[], Generated]:
        return lambda: chat.generate("chat", f"Story number {number}:", max_tokens=300, ignore_eos=True)

    waited: list[float] = []

    def watch() -> Generated:
        generated = story(0)()
        waited.append(chat.metric("trireme_generation_waiting", "chat"))
        return generated

    results = chat.all_at_once([watch, *(story(number) for number in range(1, 8))])
    assert [generated.num_output_tokens for generated in results] == [300] * 8
    assert [generated.finish_reason for generated in results] == ["length"] * 8
    assert waited[0] > 0
    assert chat.generate("chat", PROMPT).finish_reason == "length"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"regex": "[0-9]{3}-[0-9]{4}"}, lambda text: re.fullmatch("[0-9]{3}-[0-9]{4}", text)),
        ({"grammar": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
    ],
    ids=["regex", "grammar"],
)
def test_structured_output_has_the_requested_format(
    chat: Stack, form: dict[str, object], fits: Callable[[str], object]
) -> None:
    assert fits(chat.generate("chat", "Answer:", structured_outputs=form, max_tokens=64).text)


@pytest.mark.slow
def test_an_invalid_format_is_rejected(chat: Stack) -> None:
    with pytest.raises(InvalidRequestError, match=r"invalid_request \(structured_outputs\): .*regex"):
        chat.generate("chat", "Answer:", structured_outputs={"regex": "["})


@pytest.mark.slow
def test_requests_with_and_without_an_adapter_share_a_batch(stack: Stack) -> None:
    stack.load("adapters")
    try:
        plain = stack.generate("adapters", PROMPT).text
        adapted = stack.generate("adapters", PROMPT, lora_name="contrary").text
        assert plain != adapted
        results = stack.all_at_once(
            [
                lambda: stack.generate("adapters", PROMPT),
                lambda: stack.generate("adapters", PROMPT, lora_name="contrary"),
            ]
            * 4
        )
        assert [generated.text for generated in results] == [plain, adapted] * 4
        with pytest.raises(InvalidRequestError, match="unknown adapter 'formal'; available: contrary"):
            stack.generate("adapters", PROMPT, lora_name="formal")
    finally:
        stack.unload("adapters")


@pytest.mark.slow
def test_speculation_generates_several_tokens_at_once(stack: Stack) -> None:
    stack.load("speculative")
    try:
        lines = "".join(f"item {number}: apple banana cherry\n" for number in range(20))
        generated = stack.generate("speculative", f"Repeat this list:\n{lines}Again:\n{lines[:80]}", max_tokens=100)
        assert generated.num_output_tokens == 100
        assert max(chunk.num_output_tokens or 0 for chunk in generated.chunks) > 1
        assert len(generated.chunks) < 70
    finally:
        stack.unload("speculative")


# Common lists, whose next word any model of this size has learnt.
_LISTS = (
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "January, February, March, April, May, June, July, August, September, October, November, December",
    "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen",
    "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V",
    "10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120",
)


def next_words(stack: Stack, model: str) -> tuple[list[str], float]:
    """The model's continuation of each beginning of the lists, and the fraction that is correct."""
    expected, work = [], []
    for words in (line.split(", ") for line in _LISTS):
        for end in range(3, len(words)):
            prompt = ", ".join(words[:end]) + ","
            expected.append(words[end])
            work.append(lambda prompt=prompt: stack.generate(model, prompt, max_tokens=4))
    results = stack.all_at_once(work)
    words = [generated.text.strip().split(",")[0].strip() for generated in results]
    return words, sum(word == right for word, right in zip(words, expected, strict=True)) / len(expected)


@pytest.mark.slow
def test_eight_bit_weights_give_nearly_the_same_words(chat: Stack) -> None:
    words, share = next_words(chat, "chat")
    chat.load("int8")
    try:
        words_in_int8, share_in_int8 = next_words(chat, "int8")
    finally:
        chat.unload("int8")
    assert share > 0.6
    assert share_in_int8 >= share - 0.05
    same = sum(one == other for one, other in zip(words, words_in_int8, strict=True)) / len(words)
    assert same >= 0.9


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("unknown_argument", "unknown vLLM argument 'max_tokens'"),
        ("missing_adapter", "adapter 'brief': nowhere has no adapter_config.json"),
    ],
)
def test_an_invalid_model_fails_at_load(stack: Stack, model: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        stack.load(model)


@pytest.mark.slow
def test_a_dead_stub_leaves_no_process_and_its_model_can_be_loaded_again(chat: Stack) -> None:
    stream = chat.client.generate(
        "chat", text="A story:", sampling_parameters={"max_tokens": 1000, "ignore_eos": True}, deadline_ms=5_000
    )
    next(stream)
    server = psutil.Process(chat.server.pid)
    (stub,) = (child for child in server.children() if "chat/1" in " ".join(child.cmdline()))
    assert stub.children() == []
    stub.send_signal(signal.SIGKILL)
    # The server does not wait for it, so a zombie remains.
    wait_until(lambda: stub.status() == psutil.STATUS_ZOMBIE, "the stub is dead")
    with pytest.raises(ClientError):
        list(stream)
    assert [child for child in server.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE] == []
    model_file = chat.repository_dir / "chat/1/model.json"
    model_file.write_text(model_file.read_text() + "\n")
    chat.load("chat")
    assert chat.generate("chat", PROMPT).finish_reason == "length"
