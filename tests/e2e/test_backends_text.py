"""The text backends on the real tritonserver, with the repository's own models."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.deadlines import scaled

PATIENCE_SECONDS = scaled(60.0)
FUSED, STAGED = "embedding_premium", "embedding_premium_staged"
both_forms = pytest.mark.parametrize("model", [FUSED, STAGED])


def ask(
    triton: triton_grpc.InferenceServerClient, model: str, texts: Sequence[str | bytes], request_id: str = ""
) -> dict[str, npt.NDArray[Any]]:
    rows = np.array([[text if isinstance(text, bytes) else text.encode()] for text in texts], dtype=np.object_)
    tensor = triton_grpc.InferInput("TEXT", list(rows.shape), "BYTES")
    tensor.set_data_from_numpy(rows)
    result = triton.infer(model, [tensor], request_id=request_id, client_timeout=PATIENCE_SECONDS)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def embed(triton: triton_grpc.InferenceServerClient, texts: Sequence[str], model: str = FUSED) -> npt.NDArray[Any]:
    return ask(triton, model, texts)["EMBEDDING"]


@both_forms
def test_a_text_is_embedded_alike_alone_and_beside_a_long_one(
    triton: triton_grpc.InferenceServerClient, model: str
) -> None:
    alone = embed(triton, ["a"], model)
    together = embed(triton, ["word " * 60, "a"], model)
    assert np.abs(together[1] - alone[0]).max() < 1e-4


def test_fused_and_staged_forms_agree(triton: triton_grpc.InferenceServerClient) -> None:
    texts = ["Grüße 🚀 aus 東京", "", "nul\0byte", "  blanks\n", "a" * 300]
    fused, staged = embed(triton, texts), embed(triton, texts, STAGED)
    assert np.abs(fused - staged).max() < 1e-4
    assert np.allclose(np.linalg.norm(fused, axis=1), 1.0, atol=1e-5)


@both_forms
def test_a_long_text_is_cut_not_refused(triton: triton_grpc.InferenceServerClient, model: str) -> None:
    """256 tokens: [CLS], 254 words of one token, [SEP]."""
    assert np.array_equal(embed(triton, ["word " * 254], model), embed(triton, ["word " * 20_000], model))


def test_rows_keep_their_order_and_their_texts(triton: triton_grpc.InferenceServerClient) -> None:
    texts = [f"number {index} " * (1 + index * 7 % 23) for index in range(64)]
    together = embed(triton, texts)
    for index in (0, 1, 17, 63):
        assert np.abs(together[index] - embed(triton, [texts[index]])[0]).max() < 1e-4


@pytest.mark.parametrize("model", [FUSED, STAGED, "sentiment_economy"])
def test_a_bad_request_fails_alone_with_its_own_words(triton: triton_grpc.InferenceServerClient, model: str) -> None:
    right = [ask(triton, model, [f"text {index}"]) for index in range(4)]

    def attempt(index: int) -> dict[str, npt.NDArray[Any]] | str:
        texts: list[str | bytes] = ["fine", b"\xc3\x28"] if index == 2 else [f"text {index}"]
        try:
            return ask(triton, model, texts, request_id=f"r{index}")
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            answers = list(pool.map(attempt, range(4)))
            for index in (0, 1, 3):
                answer = answers[index]
                assert isinstance(answer, dict)
                for name, expected in right[index].items():
                    if expected.dtype == np.object_:
                        assert np.array_equal(answer[name], expected)
                    else:
                        assert np.abs(answer[name] - expected).max() < 0.1  # int8 depends on its batch
            assert "request 'r2': row 1 of TEXT is not UTF-8: byte 0xc3 at position 0" in str(answers[2])


@both_forms
def test_an_over_large_text_is_refused_and_the_next_one_answered(
    triton: triton_grpc.InferenceServerClient, model: str
) -> None:
    with pytest.raises(InferenceServerException, match="row 0 of TEXT has 100000000 bytes; the maximum is 1048576"):
        ask(triton, model, ["x" * 100_000_000])
    assert embed(triton, ["small"], model).shape == (1, 384)


def test_labels_go_with_their_probabilities(triton: triton_grpc.InferenceServerClient) -> None:
    answer = ask(triton, "sentiment_premium", ["Wonderful, I love it.", "Awful. A waste of money."])
    assert answer["LABEL"].tolist() == [[b"positive"], [b"negative"]]
    assert np.array_equal(answer["SCORE"], answer["PROBABILITIES"].max(axis=1, keepdims=True))
    assert np.allclose(answer["PROBABILITIES"].sum(axis=1), 1.0, atol=1e-5)
