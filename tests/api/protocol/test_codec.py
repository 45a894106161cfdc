"""What the codec encodes, another decoder and the codec itself read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.http import InferResult

from api.errors import BadRequestError
from api.protocol.codec import OutputRequest, decode_request, encode_answer
from api.protocol.datatypes import DTYPES, datatype_of
from api.protocol.json_tensors import parse_data
from api.protocol.limits import Limits, check_depth
from cluster.description import ModelDescription, TensorDescription

NUMERIC = [name for name in DTYPES if name not in ("BYTES", "BF16")]

arrays = st.sampled_from(NUMERIC).flatmap(
    lambda name: hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
)
texts = hnp.arrays(object, hnp.array_shapes(max_side=3), elements=st.text(max_size=5))


def model_of(array: np.ndarray) -> ModelDescription:
    shape = tuple(f"d{axis}" for axis in range(array.ndim))
    tensor = TensorDescription("t", array.dtype, shape)
    return ModelDescription((tensor,), (tensor,), False, "")


def equal(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


@settings(max_examples=60, deadline=None)
@given(arrays | texts, st.booleans())
def test_the_stock_client_reads_our_answers(array, binary):
    answer = encode_answer("m", "1", "id", [(OutputRequest("t", binary), array)])
    result = InferResult.from_response_body(answer.body, header_length=answer.header_length)
    found = result.as_numpy("t")
    if array.dtype == object and binary:
        found = np.vectorize(bytes.decode, otypes=[object])(found) if found.size else found
    equal(found, array)
    assert result.get_response()["id"] == "id"


@settings(max_examples=60, deadline=None)
@given(arrays | texts, st.booleans())
def test_an_answer_sent_back_is_the_same_request(array, binary):
    answer = encode_answer("m", "1", None, [(OutputRequest("t", binary), array)])
    size = len(answer.body) if answer.header_length is None else answer.header_length
    head = json.loads(answer.body[:size])
    if not binary and array.dtype.kind == "f" and not np.isfinite(array).all():
        return
    head["inputs"] = head.pop("outputs")
    text = json.dumps(head).encode()
    length = None if answer.header_length is None else len(text)
    request = decode_request(text + answer.body[size:], length, model_of(array), Limits())
    equal(request.inputs["t"], array)
    assert request.inputs["t"].dtype == array.dtype


@settings(max_examples=60, deadline=None)
@given(arrays)
def test_binary_data_is_not_copied(array):
    answer = encode_answer("m", "1", None, [(OutputRequest("t", True), array)])
    head = json.loads(answer.body[: answer.header_length])
    head["inputs"] = head.pop("outputs")
    text = json.dumps(head).encode()
    body = text + answer.body[answer.header_length :]
    found = decode_request(body, len(text), model_of(array), Limits()).inputs["t"]
    if array.size and array.dtype != bool:
        assert np.shares_memory(found, np.frombuffer(body, np.uint8))


@settings(max_examples=60, deadline=None)
@given(arrays.filter(lambda array: array.ndim > 0))
def test_nested_and_flat_lists_are_the_same(array):
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return
    datatype = datatype_of(array.dtype)
    nested = parse_data(array.tolist(), datatype, array.shape, "x")
    flat = parse_data(array.reshape(-1).tolist(), datatype, array.shape, "x")
    equal(nested, array)
    equal(flat, array)
    assert nested.dtype == array.dtype


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_depth_is_measured_exactly(content):
    def depth(item):
        if isinstance(item, dict):
            item = list(item.values())
        return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0

    text = json.dumps(content).encode()
    check_depth(text, max(depth(content), 0))
    if depth(content) > 0:
        with pytest.raises(BadRequestError, match="nested deeper"):
            check_depth(text, depth(content) - 1)


def test_outputs_that_are_not_contiguous():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    for binary in (True, False):
        answer = encode_answer("m", "1", None, [(OutputRequest("t", binary), array)])
        result = InferResult.from_response_body(answer.body, header_length=answer.header_length)
        equal(result.as_numpy("t"), array)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("size", [0, 1, 6])
def test_a_raw_body_fills_the_axis_that_is_open(size: int, dtype: str, axis: int) -> None:
    shape: list[int | str] = [3, 5, 2]
    shape[axis] = "n"
    tensor = TensorDescription("t", np.dtype(dtype), tuple(shape))
    model = ModelDescription((tensor,), (tensor,), False, "")
    lengths = tuple(size if isinstance(dim, str) else dim for dim in shape)
    array = np.arange(np.prod(lengths, dtype=int)).reshape(lengths).astype(dtype)
    request = decode_request(array.tobytes(), 0, model, Limits())
    equal(request.inputs["t"], array)
