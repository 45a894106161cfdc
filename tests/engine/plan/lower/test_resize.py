from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.engine.harness import ISAS
from tests.engine.lowered import Array, check_node, lower_node
from tests.engine.plan.lower.test_views import ints

ISA = ISAS[-1]
COORDINATES = [
    "align_corners",
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_crop_and_resize",
]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def runtime(arrays: list[Array | None], attributes: dict[str, Any], opset: int = 19) -> Array:
    """Output of Resize by onnxruntime."""
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    node = onnx.helper.make_node("Resize", names, ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for n, a in zip(names, arrays, strict=True)
        if a is not None
    ]
    assert arrays[0] is not None
    kind = onnx.helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    out = onnx.helper.make_tensor_value_info("y", kind, None)
    graph = onnx.helper.make_graph([node], "resize", infos, [out])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    found: Array = session.run(None, feeds)[0]
    return found


def check(
    isa: str, x: Array, roi: Array | None, scales: Array | None, sizes: Array | None, **kw: Any
) -> None:
    arrays: list[Array | None] = [x, roi, scales, sizes]
    while arrays[-1] is None:
        arrays.pop()
    pieces = kw.pop("pieces", 1)
    expected = runtime(arrays, kw)
    results, status = lower_node(
        isa, "Resize", arrays, [expected], known=(1, 2, 3), opset=19, pieces=pieces, **kw
    )
    assert status == 0
    np.testing.assert_allclose(results[0], expected, rtol=1e-4, atol=1e-4)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel"])
@pytest.mark.parametrize("rounding", ["round_prefer_ceil", "round_prefer_floor"])
def test_halves_between_positions_are_ties(coordinates: str, rounding: str) -> None:
    for size, out in ((7, 2), (9, 6), (5, 10), (11, 22), (13, 8), (14, 4)):
        x = np.arange(size, dtype=np.float32).reshape(1, 1, 1, size)
        kw = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
        check(ISAS[-1], x, None, None, ints(1, 1, 1, out), mode="nearest", **kw)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("coordinates", COORDINATES[:-1])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_channels_first(isa: str, coordinates: str, mode: str, data: st.DataObject) -> None:
    shape = [data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))]
    shape += [data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))]
    x = np.random.default_rng(0).random(shape, np.float32)
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
    }
    if mode == "nearest":
        attributes["nearest_mode"] = data.draw(st.sampled_from(ROUNDINGS))
    if mode == "cubic":
        attributes["exclude_outside"] = data.draw(st.integers(0, 1))
        attributes["cubic_coeff_a"] = data.draw(st.sampled_from([-0.75, -0.5]))
    pieces = data.draw(st.integers(1, 3))
    if data.draw(st.booleans()):
        scale = st.sampled_from([1.0, 2.0, 3.0, 0.5, 0.6, 1.7, 2.5])
        scales = floats(1, 1, data.draw(scale), data.draw(scale))
        assume(all(int(n * s) > 0 for n, s in zip(shape, scales, strict=True)))
        check(isa, x, None, scales, None, pieces=pieces, **attributes)
    else:
        out = [data.draw(st.integers(1, 20)) for _ in range(2)]
        check(isa, x, None, None, ints(*shape[:2], *out), pieces=pieces, **attributes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("channels", [1, 3, 16, 37])
@pytest.mark.parametrize("scale", [2.0, 1.5])
def test_channels_last(isa: str, mode: str, channels: int, scale: float) -> None:
    x = np.random.default_rng(0).random((2, 5, 7, channels), np.float32)
    scales = floats(1, scale, scale, 1)
    kw: dict[str, Any] = {"mode": mode}
    check_node(
        isa, "Resize", [x, None, scales], known=(2,), opset=19, pieces=3, tolerance=1e-4, **kw
    )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("window", [(0.0, 0.0, 1.0, 1.0), (0.2, -0.3, 0.9, 1.4)])
def test_crop(mode: str, window: tuple[float, ...]) -> None:
    x = np.random.default_rng(0).random((1, 2, 6, 8), np.float32)
    roi = floats(0, 0, *window[:2], 1, 1, *window[2:])
    check(
        ISA,
        x,
        roi,
        None,
        ints(1, 2, 5, 11),
        mode=mode,
        extrapolation_value=9.0,
        coordinate_transformation_mode="tf_crop_and_resize",
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("out", [(3, 4), (5, 13), (20, 2)])
def test_antialias(mode: str, exclude: int, out: tuple[int, int]) -> None:
    x = np.random.default_rng(0).random((1, 2, 9, 11), np.float32)
    sizes = ints(1, 2, *out)
    kw: dict[str, Any] = {"mode": mode, "antialias": 1, "exclude_outside": exclude}
    check_node(ISA, "Resize", [x, None, None, sizes], known=(3,), opset=19, tolerance=1e-4, **kw)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float64, np.int32])
def test_nearest_of_any_type(dtype: Any) -> None:
    x = np.arange(24).reshape(1, 2, 3, 4).astype(dtype)
    for scale in (2.0, 0.6, 1.3):
        check_node(ISA, "Resize", [x, None, floats(1, 1, scale, scale)], known=(2,), opset=19)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_aspect_ratio_is_kept(policy: str, mode: str) -> None:
    x = np.random.default_rng(0).random((1, 1, 4, 6), np.float32)
    kw: dict[str, Any] = {
        "mode": mode,
        "keep_aspect_ratio_policy": policy,
        "axes": [2, 3],
    }
    check(ISA, x, None, None, ints(7, 8), **kw)


def test_three_spatial_axes_and_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((1, 2, 3, 4, 5), np.float32)
    for mode in ("nearest", "linear"):
        kw: dict[str, Any] = {"mode": mode}
        scales = floats(1, 1, 1.5, 2.5, 0.5)
        check_node(ISA, "Resize", [x, None, scales], known=(2,), opset=19, tolerance=1e-4, **kw)
        line = x.reshape(1, 6, 20)
        scales = floats(1, 1, 1.7)
        check_node(ISA, "Resize", [line, None, scales], known=(2,), opset=19, tolerance=1e-4, **kw)
