"""Values become tensors without loss, or are rejected."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from trireme_client import FakeServer, InvalidInputError, TriremeClient
from trireme_client.tensors import DTYPES, decode, encode, to_array

FIXED = [datatype for datatype in DTYPES if datatype not in ("BYTES", "BF16")]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(st.data(), st.sampled_from(FIXED), SHAPES)
def test_every_fixed_datatype_and_shape_survives_encoding(data, datatype, shape):
    array = data.draw(hnp.arrays(DTYPES[datatype], shape))
    sent = to_array("X", datatype, array)
    back = decode(datatype, shape, encode("X", datatype, sent))
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(np.uint16, SHAPES))
def test_bf16_survives_bit_by_bit(bits):
    array = bits.view(ml_dtypes.bfloat16)
    back = decode("BF16", array.shape, encode("X", "BF16", to_array("X", "BF16", array)))
    assert back.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=20)), st.booleans())
def test_bytes_survive_exactly(items, column):
    value = [[item] for item in items] if column else items
    array = to_array("T", "BYTES", value)
    assert decode("BYTES", array.shape, encode("T", "BYTES", array)).reshape(-1).tolist() == items


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_survive_as_utf8(texts):
    array = to_array("T", "BYTES", texts)
    assert [item.decode() for item in decode("BYTES", array.shape, encode("T", "BYTES", array))] == texts


@pytest.fixture(scope="module")
def identity():
    """A model for each datatype and rank, and a client for them."""
    with FakeServer() as server:
        for datatype in DTYPES:
            for rank in range(5):
                server.add_model(
                    f"{datatype}_{rank}",
                    inputs={"X": (datatype, [-1] * rank)},
                    outputs={"Y": (datatype, [-1] * rank)},
                    compute=lambda inputs: {"Y": inputs["X"]},
                )
            server.add_model(
                f"{datatype}_rows",
                inputs={"X": (datatype, [3])},
                outputs={"Y": (datatype, [3])},
                max_batch_size=4,
                compute=lambda inputs: {"Y": inputs["X"]},
            )
        with TriremeClient(server.address) as client:
            yield client


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(DTYPES)), SHAPES)
def test_calls_return_their_input_for_every_datatype_and_shape(identity, data, datatype, shape):
    array = _draw(data, datatype, shape)
    back = identity.infer(f"{datatype}_{len(shape)}", {"X": array})["Y"]
    assert back.shape == array.shape
    assert back.dtype == array.dtype
    assert _same(back, array)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(sorted(DTYPES)), st.integers(0, 11))
def test_rows_over_the_batch_size_are_rejoined_in_order(identity, data, datatype, rows):
    array = _draw(data, datatype, (rows, 3))
    result = identity.infer(f"{datatype}_rows", {"X": array})
    assert result["Y"].shape == (rows, 3)
    assert result["Y"].dtype == array.dtype
    assert _same(result["Y"], array)
    assert result.timings.requests == math.ceil(rows / 4)


def _draw(data, datatype, shape):
    if datatype == "BYTES":
        items = data.draw(st.lists(st.binary(max_size=6), min_size=math.prod(shape), max_size=math.prod(shape)))
        array = np.empty(len(items), object)
        array[:] = items
        return array.reshape(shape)
    if datatype == "BF16":
        return data.draw(hnp.arrays(np.uint16, shape)).view(ml_dtypes.bfloat16)
    return data.draw(hnp.arrays(DTYPES[datatype], shape))


def _same(left, right):
    return left.tolist() == right.tolist() if left.dtype == object else left.tobytes() == right.tobytes()


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("INT64", np.array([1], np.int32)),
        ("INT64", np.array([1], np.uint32)),
        ("FP64", np.array([1.5], np.float32)),
        ("FP32", np.array([7], np.int16)),
        ("FP32", np.array([1.5], ml_dtypes.bfloat16)),
        ("UINT8", np.array([True])),
    ],
)
def test_lossless_casts_are_made(datatype, array):
    cast = to_array("X", datatype, array)
    assert cast.dtype == DTYPES[datatype]
    assert cast.tolist() == array.astype(np.float64).tolist()


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP32", np.array([0.5], np.float64)),
        ("FP16", np.array([0.5], np.float32)),
        ("BF16", np.array([0.5], np.float32)),
        ("INT32", np.array([2**31 + 1])),
        ("INT32", np.array([1], np.int64)),
        ("UINT64", np.array([1], np.int64)),
        ("FP64", np.array([2**53 + 1], np.int64)),
        ("FP32", np.array([2**24 + 1], np.int32)),
        ("BOOL", np.array([0, 1], np.uint8)),
        ("INT64", np.array([1.0])),
        ("FP32", np.array(["1.0"])),
        ("FP32", np.array([1 + 2j])),
        ("INT64", np.array(["2020-01-01"], "datetime64[D]")),
    ],
)
def test_lossy_casts_are_rejected_with_the_tensors_name(datatype, array):
    with pytest.raises(InvalidInputError) as caught:
        to_array("IDS", datatype, array)
    assert caught.value.tensor == "IDS"
    assert datatype in caught.value.reason
    assert array.dtype.name in caught.value.reason or str(array.dtype) in caught.value.reason


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT64", [2**31 + 1]),
        ("INT64", -(2**63)),
        ("UINT64", [2**64 - 1]),
        ("FP32", [0.1, 1, float("inf")]),
        ("FP16", [[1, 2], [3, 4]]),
        ("BOOL", [True, False]),
        ("INT8", [True, -128]),
    ],
)
def test_python_values_take_the_models_datatype(datatype, value):
    array = to_array("X", datatype, value)
    assert array.dtype == DTYPES[datatype]
    assert np.array_equal(array, np.asarray(value).astype(DTYPES[datatype]))


@pytest.mark.parametrize(
    ("datatype", "value", "problem"),
    [
        ("INT32", [1, 2**31 + 1], "2147483649 at index 1"),
        ("UINT8", [[-1]], "-1 at index 0"),
        ("UINT64", [2**64], "18446744073709551616"),
        ("INT64", [1.5], "1.5"),
        ("BOOL", [True, 1.5], "1.5"),
        ("FP32", [1e39], "1e+39 at index 0"),
        ("FP16", [65537], "65537"),
        ("FP64", [2**53 + 1], "9007199254740993"),
        ("FP32", ["a"], "'a'"),
        ("FP32", [None], "None"),
        ("FP32", [[1.0], [1.0, 2.0]], "regular shape"),
        ("BF16", [0.5], "ml_dtypes.bfloat16"),
        ("BYTES", [["a"], ["b", "c"]], "different lengths"),
    ],
)
def test_python_values_that_do_not_fit_are_rejected(datatype, value, problem):
    with pytest.raises(InvalidInputError, match="tensor 'X'") as caught:
        to_array("X", datatype, value)
    assert problem in caught.value.reason


def test_views_are_sent_in_logical_order():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert not array.flags.c_contiguous
    back = decode("FP32", (3, 2), encode("X", "FP32", array))
    assert back.tolist() == array.tolist()


def test_other_byte_orders_are_sent_as_little_endian():
    array = np.array([1, 2], ">i4")
    sent = to_array("X", "INT32", array)
    assert decode("INT32", (2,), encode("X", "INT32", sent)).tolist() == [1, 2]


def test_an_invalid_text_is_reported_with_its_index():
    values = ["", "né😀", "ab\0", "\0", "x" * 70000]
    with pytest.raises(InvalidInputError, match="element 5 is None"):
        encode("T", "BYTES", to_array("T", "BYTES", [[*values, None, "\ud800"]]))
    with pytest.raises(InvalidInputError, match="element 5 is not valid Unicode text"):
        encode("T", "BYTES", to_array("T", "BYTES", [[*values, "\ud800"]]))
    good = to_array("T", "BYTES", [values])
    assert decode("BYTES", (1, 5), encode("T", "BYTES", good))[0].tolist() == [value.encode() for value in values]


def test_numpys_byte_strings_are_rejected_because_they_lose_nuls():
    with pytest.raises(InvalidInputError, match="drops trailing NUL bytes"):
        to_array("T", "BYTES", np.array([b"ab\0", b"abc"]))


def test_numpys_text_arrays_are_accepted():
    assert encode("T", "BYTES", to_array("T", "BYTES", np.array(["é", "ab"]))) == (b"\x02\0\0\0\xc3\xa9\x02\0\0\0ab")


@pytest.mark.parametrize("raw", [b"\x05\0\0\0ab", b"\x01\0", b""])
def test_a_truncated_response_is_an_error(raw):
    with pytest.raises(ValueError, match="ends early"):
        decode("BYTES", (1,), raw)
