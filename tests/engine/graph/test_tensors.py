from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from engine.errors import ModelError
from engine.graph.tensors import TensorReader

NATIVE = [
    np.float16,
    np.float32,
    np.float64,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.bool_,
    np.complex64,
    np.complex128,
]

SMALL = [
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz,
    ml_dtypes.float4_e2m1fn,
    ml_dtypes.int4,
    ml_dtypes.uint4,
    ml_dtypes.int2,
    ml_dtypes.uint2,
]


def read(tensor: TensorProto, budget: int | None = None) -> np.ndarray[Any, Any]:
    return TensorReader(None, budget).read(tensor, "t")


@pytest.mark.parametrize("dtype", NATIVE, ids=str)
@settings(max_examples=20)
@given(data=st.data())
def test_raw_data(dtype: Any, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
    result = read(numpy_helper.from_array(array))
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert result.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", SMALL, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (0, 3)])
def test_small_types(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    result = read(numpy_helper.from_array(array))
    assert result.dtype == np.dtype(dtype)
    assert np.array_equal(result.astype(np.float32), array.astype(np.float32))


@pytest.mark.parametrize(
    "number",
    [
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT64,
        TensorProto.BOOL,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT8E4M3FN,
    ],
)
def test_typed_fields(number: int) -> None:
    values = [0, 1, 1, 0, 1]
    result = read(helper.make_tensor("t", number, [5], values))
    assert result.dtype == helper.tensor_dtype_to_np_dtype(number)
    assert result.astype(np.float32).tolist() == values


def test_strings() -> None:
    strings = [b"a\0", "ä".encode(), b"", b"b"]
    tensor = TensorProto(data_type=TensorProto.STRING, dims=[2, 2], string_data=strings)
    assert read(tensor).tolist() == [["a\0", "ä"], ["", "b"]]
    tensor.string_data[1] = b"\xff"
    with pytest.raises(ModelError, match="string 1 is not UTF-8"):
        read(tensor)


def sparse(indices: Any, dims: list[int]) -> SparseTensorProto:
    positions = np.array(indices, np.int64)
    values = np.arange(1, len(positions) + 1, dtype=np.float32)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, "v"), numpy_helper.from_array(positions), dims
    )


def test_sparse() -> None:
    reader = TensorReader(None)
    expected = np.array([[0, 1, 0], [2, 0, 0]], np.float32)
    assert np.array_equal(reader.read_sparse(sparse([1, 3], [2, 3]), "t"), expected)
    assert np.array_equal(reader.read_sparse(sparse([[0, 1], [1, 0]], [2, 3]), "t"), expected)


@pytest.mark.parametrize("indices", [[6], [-1], [[2, 0]], [[0, -1]], [[[1]]]])
def test_sparse_indices_outside(indices: Any) -> None:
    with pytest.raises(ModelError, match=r"outside shape|one index for each"):
        TensorReader(None).read_sparse(sparse(indices, [2, 3]), "t")


def test_sparse_bomb_is_refused_before_allocation() -> None:
    with pytest.raises(ModelError, match="GiB of memory"):
        TensorReader(None).read_sparse(sparse([1], [2**40, 2]), "t")


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        ([2**40, 2**40], "GiB of memory"),
        ([5], "needs 20 bytes, but 16 are there"),
        ([3], "needs 12 bytes"),
        ([-4], "impossible"),
        ([2**60, 0], "impossible"),
        ([1] * 70, "70 axes"),
    ],
)
def test_declared_sizes_must_match(dims: list[int], text: str) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 16)
    with pytest.raises(ModelError, match=text):
        read(tensor)


def test_typed_field_of_the_wrong_length() -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[3], float_data=[1, 2])
    with pytest.raises(ModelError, match="needs 3 entries in float_data, but 2"):
        read(tensor)


def test_budget_is_for_all_tensors_together() -> None:
    reader = TensorReader(None, 64)
    tensor = numpy_helper.from_array(np.zeros(8, np.float32))
    reader.read(tensor, "a")
    reader.read(tensor, "b")
    with pytest.raises(ModelError, match="c: the tensors declared so far"):
        reader.read(tensor, "c")


@pytest.mark.parametrize("number", [0, 99])
def test_unknown_element_type(number: int) -> None:
    with pytest.raises(ModelError, match=f"element type {number}"):
        read(TensorProto(data_type=number, dims=[0]))


def test_booleans_of_any_byte() -> None:
    tensor = TensorProto(data_type=TensorProto.BOOL, dims=[3], raw_data=b"\x00\x01\x07")
    assert read(tensor).view(np.uint8).tolist() == [0, 1, 1]
