"""What vLLM's engine does beside what every engine does, in a stub of the real server."""

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


def test_the_exported_model_answers_its_golden_samples(stack: Stack) -> None:
    for name in ("generation_premium_engine", "generation_premium"):
        stack.load(name)
        (sample,) = load_golden(ModelRepository(stack.repository_dir).model(name))
        messages, sampling = (json.loads(sample.inputs[tensor][0]) for tensor in ("messages", "sampling_parameters"))
        answer = stack.generate(name, messages, **sampling)
        assert answer.text == sample.outputs["text_output"][0].decode()
    for name in ("generation_premium", "generation_premium_engine"):
        stack.unload(name)


@pytest.mark.slow
def test_more_than_the_cache_holds_waits_and_is_answered(chat: Stack) -> None:
    """Eight times 310 tokens, in blocks for 2048."""

    def tell(number: int) -> Callable[[], Generated]:
        return lambda: chat.generate("chat", f"Story number {number}:", max_tokens=300, ignore_eos=True)

    waited: list[float] = []

    def watch() -> Generated:
        answer = tell(0)()
        waited.append(chat.metric("trireme_generation_waiting", "chat"))
        return answer

    answers = chat.all_at_once([watch, *(tell(number) for number in range(1, 8))])
    assert [answer.num_output_tokens for answer in answers] == [300] * 8
    assert [answer.finish_reason for answer in answers] == ["length"] * 8
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
def test_an_answer_has_the_form_that_is_asked_for(
    chat: Stack, form: dict[str, object], fits: Callable[[str], object]
) -> None:
    assert fits(chat.generate("chat", "Tell me:", structured_outputs=form, max_tokens=64).text)


@pytest.mark.slow
def test_a_form_that_is_none_is_refused(chat: Stack) -> None:
    with pytest.raises(InvalidRequestError, match=r"invalid_request \(structured_outputs\): .*regex"):
        chat.generate("chat", "Tell me:", structured_outputs={"regex": "["})


@pytest.mark.slow
def test_requests_with_and_without_an_adapter_share_a_batch(stack: Stack) -> None:
    stack.load("adapters")
    try:
        plain = stack.generate("adapters", PROMPT).text
        adapted = stack.generate("adapters", PROMPT, lora_name="contrary").text
        assert plain != adapted
        answers = stack.all_at_once(
            [
                lambda: stack.generate("adapters", PROMPT),
                lambda: stack.generate("adapters", PROMPT, lora_name="contrary"),
            ]
            * 4
        )
        assert [answer.text for answer in answers] == [plain, adapted] * 4
        with pytest.raises(InvalidRequestError, match="no adapter 'formal'; there are: contrary"):
            stack.generate("adapters", PROMPT, lora_name="formal")
    finally:
        stack.unload("adapters")


@pytest.mark.slow
def test_speculation_brings_several_tokens_at_once(stack: Stack) -> None:
    stack.load("speculative")
    try:
        lines = "".join(f"item {number}: apple banana cherry\n" for number in range(20))
        answer = stack.generate("speculative", f"Repeat this list:\n{lines}Again:\n{lines[:80]}", max_tokens=100)
        assert answer.num_output_tokens == 100
        assert max(chunk.num_output_tokens or 0 for chunk in answer.chunks) > 1
        assert len(answer.chunks) < 70
    finally:
        stack.unload("speculative")


# The next word of a text of common lists, which any model of its size has learnt.
_LISTS = (
    "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "January, February, March, April, May, June, July, August, September, October, November, December",
    "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen",
    "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V",
    "10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120",
)


def next_words(stack: Stack, model: str) -> tuple[list[str], float]:
    """What the model says after each beginning of the lists, and the share that is right."""
    expected, work = [], []
    for words in (line.split(", ") for line in _LISTS):
        for end in range(3, len(words)):
            prompt = ", ".join(words[:end]) + ","
            expected.append(words[end])
            work.append(lambda prompt=prompt: stack.generate(model, prompt, max_tokens=4))
    answers = stack.all_at_once(work)
    said = [answer.text.strip().split(",")[0].strip() for answer in answers]
    return said, sum(word == right for word, right in zip(said, expected, strict=True)) / len(expected)


@pytest.mark.slow
def test_eight_bit_weights_say_what_the_full_ones_say(chat: Stack) -> None:
    said, share = next_words(chat, "chat")
    chat.load("int8")
    try:
        said_in_int8, share_in_int8 = next_words(chat, "int8")
    finally:
        chat.unload("int8")
    assert share > 0.6
    assert share_in_int8 >= share - 0.05
    same = sum(one == other for one, other in zip(said, said_in_int8, strict=True)) / len(said)
    assert same >= 0.9


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("unknown_argument", "vLLM has no argument 'max_tokens'"),
        ("missing_adapter", "adapter 'brief': nowhere holds no adapter"),
    ],
)
def test_a_model_that_vllm_cannot_do_is_refused_at_load(stack: Stack, model: str, said: str) -> None:
    with pytest.raises(InferenceServerException, match=said):
        stack.load(model)


@pytest.mark.slow
def test_a_stub_that_dies_leaves_no_process_and_is_loaded_anew(chat: Stack) -> None:
    stream = chat.client.generate(
        "chat", text="A story:", sampling_parameters={"max_tokens": 1000, "ignore_eos": True}, deadline_ms=5_000
    )
    next(stream)
    server = psutil.Process(chat.server.pid)
    (stub,) = (child for child in server.children() if "chat/1" in " ".join(child.cmdline()))
    assert stub.children() == []
    stub.send_signal(signal.SIGKILL)
    # The server does not ask for its end: what is left is an entry in the list of processes.
    wait_until(lambda: stub.status() == psutil.STATUS_ZOMBIE, "the stub is dead")
    with pytest.raises(ClientError):
        list(stream)
    assert [child for child in server.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE] == []
    model_file = chat.repository_dir / "chat/1/model.json"
    model_file.write_text(model_file.read_text() + "\n")
    chat.load("chat")
    assert chat.generate("chat", PROMPT).finish_reason == "length"
