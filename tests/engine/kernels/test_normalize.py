"""Row normalisation and channel kernels against float64 arithmetic and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.codegen.kernel import KernelSpec
from engine.codegen.target import select
from engine.kernels.channel import strip_width
from engine.kernels.normalize import NORMS
from tests.engine.harness import ISAS, run_kernel

Array = np.ndarray[Any, Any]


def data(*shape: int, dtype: Any = np.float32) -> Array:
    generator = np.random.default_rng(sum(shape))
    return (generator.standard_normal(shape) * 3 + 1).astype(dtype)


def oracle(op: str, inputs: dict[str, Array], **attributes: Any) -> Array:
    """A node with one output, run by onnxruntime."""
    node = onnx.helper.make_node(op, list(inputs), ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in inputs.items()
    ]
    kind = infos[0].type.tensor_type.elem_type
    output = onnx.helper.make_tensor_value_info("y", kind, None)
    graph = onnx.helper.make_graph([node], "node", infos, [output])
    opset = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    result: Array = session.run(None, inputs)[0]
    return result


def wide(x: Array, norm: str, epsilon: float) -> tuple[Array, Array, Array]:
    """Normalised rows of [rows, length] with means and factors, in float64."""
    x = x.astype(np.float64)
    mean = x.mean(1, keepdims=True) if norm in ("variance", "deviation") else np.zeros((len(x), 1))
    centred = x - mean
    if norm in ("l1", "l2"):
        size = np.linalg.norm(centred, int(norm[1]), 1, keepdims=True)
        inverse = np.divide(1, size, where=size != 0, out=np.zeros_like(size))
    elif norm == "deviation":
        inverse = 1 / (np.sqrt(np.square(centred).mean(1, keepdims=True)) + epsilon)
    else:
        inverse = 1 / np.sqrt(np.square(centred).mean(1, keepdims=True) + epsilon)
    return centred * inverse, mean, inverse


def normalize(
    x: Array,
    isa: str,
    norm: str = "variance",
    *,
    scale: Array | None = None,
    bias: Array | None = None,
    affine: str = "element",
    statistics: tuple[Array, Array] | None = None,
    pieces: int = 1,
    epsilon: float = 1e-5,
    items: int | None = None,
    **words: int,
) -> Array:
    spec = KernelSpec.of(
        "normalize",
        dtype=str(x.dtype),
        norm=norm,
        affine=affine if scale is not None else "none",
        bias=bias is not None,
        statistics=statistics is not None,
        parts="parts" in words,
    )
    arguments: dict[str, Any] = {"length": x.shape[-1], **words}
    if scale is not None:
        arguments["scale"] = scale
    if bias is not None:
        arguments["bias"] = bias
    if statistics is not None:
        arguments["mean"], arguments["inverse"] = statistics
    y = np.full(x.shape, 7, x.dtype)
    rows = x.shape[0] if items is None else items
    status = run_kernel(spec, isa, rows, pieces=pieces, x=x, y=y, epsilon=epsilon, **arguments)
    assert status == 0
    return y


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 4),
    st.integers(1, 400),
    st.sampled_from(ISAS),
    st.sampled_from(NORMS),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 2),
)
def test_rows_equal_wide_arithmetic(
    rows: int, length: int, isa: str, norm: str, dtype: str, weights: int
) -> None:
    x = data(rows, length, dtype=dtype)
    scale, bias = data(1, length, dtype=dtype)[0], data(2, length, dtype=dtype)[1]
    expected, mean, inverse = wide(x, norm, 1e-5)
    if weights:
        expected = expected * scale + (bias if weights == 2 else 0)
    found = (np.full(rows, 7, dtype), np.full(rows, 7, dtype))
    y = normalize(
        x,
        isa,
        norm,
        scale=scale if weights else None,
        bias=bias if weights == 2 else None,
        statistics=found,
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0], mean[:, 0], rtol=1e-5, atol=1e-6)
    if length > 1:
        np.testing.assert_allclose(found[1], inverse[:, 0], rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_variance_survives_a_large_mean(isa: str) -> None:
    x = data(3, 1000) + 10_000
    np.testing.assert_allclose(normalize(x, isa), wide(x, "variance", 1e-5)[0], atol=2e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_rows_of_zeros_stay_zero(isa: str, norm: str) -> None:
    assert (normalize(np.zeros((2, 21), np.float32), isa, norm) == 0).all()


@pytest.mark.parametrize("isa", ISAS)
def test_group_normalisation_has_a_scale_per_part(isa: str) -> None:
    x, scale, bias = data(2, 6, 5, 7), data(6), data(6) * 2
    y = normalize(
        x.reshape(2, 6, 35),
        isa,
        scale=scale,
        bias=bias,
        affine="part",
        items=4,
        parts=3,
        part_stride=35,
        groups=2,
        group_stride=105,
        outer_stride=210,
        scale_group=3,
        scale_part=1,
    )
    inputs = {"x": x, "scale": scale, "bias": bias}
    expected = oracle("GroupNormalization", inputs, num_groups=2)
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_do_not_depend_on_the_split(isa: str) -> None:
    x = data(7, 131)
    whole = normalize(x, isa)
    assert whole.tobytes() == normalize(x, isa, pieces=3).tobytes()
    assert whole[2:3].tobytes() == normalize(x[2:3], isa).tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pattern", ["last", "middle"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_and_shift(isa: str, pattern: str, dtype: str) -> None:
    x, scale, shift = (
        data(3, 37, 5, dtype=dtype),
        data(37, dtype=dtype),
        data(37, dtype=dtype) * 2,
    )
    expected = x * scale[:, None] + shift[:, None]
    words: dict[str, int] = {"channels": 37}
    if pattern == "last":
        x, expected = np.ascontiguousarray(x.swapaxes(1, 2)), expected.swapaxes(1, 2)
        items = 15
    else:
        words["inner"], items = 5, 3 * 37
    y = np.full(x.shape, 7, dtype)
    spec = KernelSpec.of("scale_shift", pattern=pattern, dtype=dtype)
    assert run_kernel(spec, isa, items, x=x, y=y, scale=scale, shift=shift, **words) == 0
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_equals_onnxruntime(isa: str, size: int) -> None:
    x = data(2, 9, 5, 7)
    y = np.full(x.shape, 7, np.float32)
    before, after = (size - 1) // 2, size // 2
    status = run_kernel(
        KernelSpec.of("local_response"),
        isa,
        2 * -(-35 // strip_width(select(isa))),
        pieces=3,
        x=x,
        y=y,
        channels=9,
        inner=35,
        before=before,
        after=after,
        alpha=0.01 / size,
        beta=0.75,
        bias=2.0,
    )
    assert status == 0
    expected = oracle("LRN", {"x": x}, alpha=0.01, beta=0.75, bias=2.0, size=size)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
