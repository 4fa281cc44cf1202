from __future__ import annotations

import json

import pytest
from trireme_backends.generation.errors import GenerationError, InvalidRequestError, UnsupportedError, read_error
from trireme_backends.generation.sampling import SamplingParameters


def parse(**parameters: object) -> SamplingParameters:
    return SamplingParameters.parse(json.dumps(parameters))


def test_defaults_are_neutral_and_supported_by_every_engine():
    SamplingParameters.parse("").require((), "any")
    parse(temperature=1.0, n=1, seed=None).require((), "any")


def test_max_tokens_defaults_to_vllms_and_null_means_no_limit():
    assert (parse().max_tokens, parse(max_tokens=3).max_tokens, parse(max_tokens=None).max_tokens) == (16, 3, None)


def test_numbers_may_be_strings_as_in_tritons_samples():
    assert parse(temperature="0.1", max_tokens="7").max_tokens == 7


def test_a_seed_keeps_every_digit():
    assert parse(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"min_tokens": 20, "max_tokens": 10}, "min_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
    ],
    ids=str,
)
def test_an_invalid_value_is_rejected_by_name(parameters, param):
    with pytest.raises(InvalidRequestError) as caught:
        parse(**parameters)
    assert read_error(str(caught.value)).param == param


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_text_that_is_not_a_json_object_is_rejected(text):
    with pytest.raises(InvalidRequestError, match="sampling_parameters"):
        SamplingParameters.parse(text)


@pytest.mark.parametrize("parameters", [{"n": 2}, {"logit_bias": {}}, {"guided_json": "{}"}], ids=str)
def test_unknown_keys_and_several_outputs_are_unsupported(parameters):
    with pytest.raises(UnsupportedError, match=next(iter(parameters))):
        parse(**parameters)


def test_an_engine_rejects_unsupported_parameters_by_name():
    wanted = parse(lora_name="x", structured_outputs={"json": {"type": "object"}})
    with pytest.raises(UnsupportedError, match=r"^unsupported \(structured_outputs.json\): the engine e "):
        wanted.require({"lora_name"}, "e")
    wanted.require({"lora_name", "structured_outputs.json"}, "e")


def test_an_error_message_is_parsed_anywhere_in_a_text():
    text = str(InvalidRequestError("is -1; it must be at least 1", param="max_tokens"))
    found = read_error(f"[request id: 7] {text}")
    assert (found.kind, found.param, found.problem) == ("invalid_request", "max_tokens", "is -1; it must be at least 1")
    assert read_error("something else").kind == ""
    assert issubclass(UnsupportedError, GenerationError)
