"""The table of drawn models whose operators are expanded, by operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.engine.plan.lower.drawn.support import Draw, flag, number, pick, shape, tensor
from tests.engine.plan.lower.drawn.windows import OPEN, window
from tests.engine.plan.lower.example import Array, Example, Input, Sizes, ints, one

DRAWN: Final[dict[str, Callable[[Draw, str], Example]]] = {}
"""By operator: functions that draw a model in a form that is expanded."""


def draws(*operators: str) -> Callable[[Callable[[Draw, str], Example]], Any]:
    def add(function: Callable[[Draw, str], Example]) -> Callable[[Draw, str], Example]:
        DRAWN.update(dict.fromkeys(operators, function))
        return function

    return add


@st.composite
def examples(draw: Draw, operator: str) -> Example:
    return DRAWN[operator](draw, operator)


@draws("BatchNormalization")
def batch_normalization(draw: Draw, op: str) -> Example:
    """With parameters that are inputs, one of them perhaps constant; or of training."""
    channels, dtype = pick(draw, 1, 3, 17), pick(draw, "float32", "float64")
    training = flag(draw)
    axes = ("n", channels, *(pick(draw, ("w",), ("w", 5), (4, "w", 2)) if flag(draw) else ()))

    def variances(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return (rng.random(lengths) + 0.1).astype(dtype)

    inputs = {"x": tensor(dtype, *axes)}
    inputs |= {name: tensor(dtype, channels) for name in ("scale", "bias", "mean")}
    inputs["variance"] = Input((channels,), variances)
    constants: dict[str, Array] = {}
    if flag(draw):
        del inputs["bias"]
        constants["bias"] = np.linspace(-1, 1, channels).astype(dtype)
    attributes: dict[str, Any] = {"epsilon": pick(draw, 1e-5, 1e-3)}
    outputs: tuple[str, ...] = ("y",)
    if training:
        outputs = ("y", "means", "variances")
        attributes |= {"training_mode": 1, "momentum": pick(draw, 0.9, 0.5)}
    order = ("x", "scale", "bias", "mean", "variance")
    # The mean of nothing is not a number, and rows share theirs.
    zero = () if training else ("n", "w")
    found: dict[str, Any] = {"constants": constants, "rows": not training, "zero": zero}
    return one(op, inputs, *order, outputs=outputs, opset=15, **attributes, **found)


@draws("LpPool")
def pools(draw: Draw, op: str) -> Example:
    found = window(draw, number(draw, 1, 3))
    x = {"x": tensor(pick(draw, "float32", "float16"), "n", pick(draw, 1, 3, 17), *found.axes)}
    return one(op, x, opset=22, zero=("n",), least=OPEN, p=number(draw, 3, 5), **found.attributes)


@draws("GlobalLpPool")
def whole_images(draw: Draw, op: str) -> Example:
    x = {"x": tensor("float32", "n", pick(draw, 1, 3, 17), *pick(draw, ("w",), (3, "w")))}
    return one(op, x, zero=("n",), p=number(draw, 3, 5))


@draws("MaxUnpool")
def put_back(draw: Draw, op: str) -> Example:
    """Into no fewer rows and columns than the window makes."""
    stride, more = number(draw, 1, 3), [number(draw, 0, 3) for _ in range(2)]

    def chosen(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        images, channels, height, width = lengths
        size = images * channels * (height * stride) * (width * stride)
        return rng.permutation(max(size, 1))[: images * channels * height * width].reshape(lengths)

    def given(rng: np.random.Generator, lengths: tuple[int, ...], sizes: Sizes) -> Array:
        rows, columns = 3 * stride + more[0], sizes["w"] * stride + more[1]
        return np.array([sizes["n"], 2, rows, columns], np.int64)

    inputs = {"x": tensor("float32", "n", 2, 3, "w"), "i": Input(("n", 2, 3, "w"), chosen)}
    inputs["s"] = Input((4,), given)
    reference = "onnxruntime lets indices count in the larger tensor"
    window = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
    return one(
        op, inputs, rows=False, zero=(), least={"w": 2}, opset=22, reference=reference, **window
    )


@draws("AffineGrid")
def grids(draw: Draw, op: str) -> Example:
    spatial, dtype = number(draw, 2, 3), pick(draw, "float32", "float64")
    rest = [pick(draw, 2, 3, 8) for _ in range(spatial - 1)]

    def size(rng: np.random.Generator, lengths: tuple[int, ...], sizes: Sizes) -> Array:
        return np.array([sizes["n"], 2, *rest, sizes["w"]], np.int64)

    inputs = {"theta": tensor(dtype, "n", spatial, spatial + 1)}
    inputs["size"] = Input((spatial + 2,), size)
    corners = {"align_corners": number(draw, 0, 1)}
    return one(op, inputs, opset=20, rows=False, zero=(), least={"w": 2}, **corners)


UNSIGNED: Final = ("uint32", "uint64")


@draws(
    *("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)
def reductions(draw: Draw, op: str) -> Example:
    axes = shape(draw, 2, 4)
    chosen = sorted(draw(st.sets(st.integers(1, len(axes) - 1), min_size=1)))
    logarithm = op.startswith("ReduceLog")
    dtype = pick(draw, "int32", "int64") if logarithm else pick(draw, *UNSIGNED)
    high = {"ReduceProd": 2, "ReduceMean": 1 << 20, "ReduceMax": 1 << 63, "ReduceMin": 1 << 63}
    top = min(high.get(op, 200), 1 << (63 if dtype == "uint64" else 31))

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return rng.integers(1, top, lengths, endpoint=True, dtype=np.uint64).astype(dtype)

    if op == "ReduceLogSumExp":
        # onnxruntime cuts every exponential to a whole number: of ones it is exact.
        x = Input(axes, lambda rng, lengths, _: np.full(lengths, 3, dtype))
        chosen = chosen[:1]
        axes = tuple(1 if axis == chosen[0] else dim for axis, dim in enumerate(axes))
        x = Input(axes, lambda rng, lengths, _: np.full(lengths, 3, dtype))
    else:
        x = Input(axes, values)
    # The onnx package widens sums of squares of 32 bits.
    keep = {"keepdims": number(draw, 0, 1)}
    if op == "ReduceSumSquare":
        x = Input(axes, lambda rng, lengths, _: values(rng, lengths, _).astype(np.uint64))
    return one(op, {"x": x}, constants={"axes": ints(*chosen)}, opset=18, zero=(), **keep)


@draws("Resize")
def resized(draw: Draw, op: str) -> Example:
    """Integers, by scales whose weights float32 holds; antialiased ones have no sign.

    onnxruntime limits antialiased int8 to what has none.
    """
    antialias, mode = number(draw, 0, 1), pick(draw, "linear", "cubic")
    antialias = 1 if mode == "cubic" else antialias
    dtype = pick(draw, "uint8", "int32") if antialias else pick(draw, "uint8", "int8", "int32")
    scales = np.array([1, 1, *(pick(draw, 0.5, 1, 2) for _ in range(2))], np.float32)
    x = {"x": tensor(dtype, "n", pick(draw, 1, 3), 8, "w", low=0 if antialias else -90, high=90)}
    found: dict[str, Any] = {"constants": {"scales": scales}, "zero": ("n",), "least": {"w": 3}}
    attributes = {"mode": mode, "antialias": antialias}
    return one(op, x, "x", "", "scales", opset=19, **attributes, **found)


SMALL: Final = {
    "FLOAT8E4M3FN": 500.0,
    "FLOAT8E4M3FNUZ": 300.0,
    "FLOAT8E5M2": 70000.0,
    "FLOAT8E5M2FNUZ": 70000.0,
    "FLOAT4E2M1": 7.0,
    "INT4": 7.0,
    "UINT4": 15.0,
}
"""Types of few bits, each with a number next to, or beyond, its largest."""


def of_every_size(draw: Draw, name: str, axes: tuple[int | str, ...]) -> Input:
    """Numbers up to the largest of a type, as many small ones as large ones."""
    largest = SMALL[name]

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        if "INT" in name:
            low = -8 if name == "INT4" else 0
            return rng.integers(low, largest, lengths, endpoint=True).astype(np.float32)
        sizes = largest * 2.0 ** -rng.uniform(0, 20, lengths)
        return (sizes * rng.choice([-1, 1], lengths)).astype(np.float32)

    return Input(axes, values)


@draws("Cast")
def converted(draw: Draw, op: str) -> Example:
    """To a type of few bits and back."""
    name = pick(draw, *SMALL)
    kind = getattr(TensorProto, name)
    saturate = {"saturate": number(draw, 0, 1)} if "FLOAT8" in name else {}
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=kind, **saturate),
        helper.make_node("Cast", ["small"], ["y"], to=TensorProto.FLOAT),
    ]
    x = {"x": of_every_size(draw, name, shape(draw, 1, 3))}
    return Example(nodes, x, opset=23, reference="onnxruntime lacks some of the types")


@draws("CastLike")
def converted_alike(draw: Draw, op: str) -> Example:
    name = pick(draw, *SMALL)
    kind = getattr(TensorProto, name)
    nodes = [
        helper.make_node("Cast", ["like"], ["small"], to=kind),
        helper.make_node("CastLike", ["x", "small"], ["z"]),
        helper.make_node("CastLike", ["z", "like"], ["y"]),
    ]
    x = {"x": of_every_size(draw, name, shape(draw, 1, 3)), "like": tensor("float32", "n")}
    return Example(nodes, x, opset=23, reference="onnxruntime lacks some of the types")


@draws("DequantizeLinear", "QuantizeLinear")
def quantised(draw: Draw, op: str) -> Example:
    """By scales that are inputs: one, one per position of an axis or per block of it."""
    name = pick(draw, "INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "FLOAT8E4M3FN")
    form = pick(draw, "tensor", "axis", "blocks")
    if form == "tensor":
        name = pick(draw, "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2")
    block = number(draw, 1, 3) if form == "blocks" else 0
    length = pick(draw, 2, 3, 6)
    scales: tuple[int | str, ...] = {
        "tensor": (),
        "axis": (length,),
        "blocks": ("n", length, "w"),
    }[form]
    axes = ("n", length * max(block, 1), "w")

    def positive(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return np.asarray(2.0 ** rng.integers(-3, 3, lengths), np.float32)

    def points(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return rng.integers(0, 7, lengths).astype(np.float32)

    kind = getattr(TensorProto, name)
    inputs = {"x": tensor("float32", *axes), "scale": Input(scales, positive)}
    names = ["x", "scale"]
    nodes = []
    attributes: dict[str, Any] = {"axis": 1, "output_dtype": kind}
    if block:
        attributes["block_size"] = block
    if "INT" in name and flag(draw):
        inputs["point"] = Input(scales, points)
        nodes.append(helper.make_node("Cast", ["point"], ["zero"], to=kind))
        names.append("zero")
    nodes.append(helper.make_node("QuantizeLinear", names, ["q"], **attributes))
    del attributes["output_dtype"]
    nodes.append(helper.make_node("DequantizeLinear", ["q", *names[1:]], ["y"], **attributes))
    return Example(nodes, inputs, opset=23, reference="onnxruntime lacks some of the types")


@draws("Gemm")
def general(draw: Draw, op: str) -> Example:
    depth, columns = pick(draw, 1, 5, 17), pick(draw, 1, 8, 17)
    turned = number(draw, 0, 1)
    attributes: dict[str, Any] = {"transB": turned}
    attributes |= {name: pick(draw, 0.5, 2.0) for name in ("alpha", "beta") if flag(draw)}
    inputs = {"a": tensor("float64", "n", depth, scale=1)}
    inputs["b"] = tensor("float64", *((columns, depth) if turned else (depth, columns)), scale=1)
    if flag(draw):
        inputs["c"] = tensor("float64", *pick(draw, (1,), (columns,), ("n", columns), ("n", 1)))
    return one(op, inputs, zero=("n",), **attributes)


@draws("MatMulInteger")
def integer_products(draw: Draw, op: str) -> Example:
    depth, columns = pick(draw, 1, 5, 300), pick(draw, 1, 8, 17)
    kind = pick(draw, "int8", "uint8")
    inputs = {"a": tensor("uint8", "n", "w", depth, high=255)}
    inputs["b"] = tensor(kind, depth, columns, low=-128, high=127)
    if flag(draw):
        inputs["zero_a"] = tensor("uint8", high=255)
        if flag(draw):
            inputs["zero_b"] = tensor(kind, *pick(draw, (), (columns,)))
    return one(op, inputs, zero=("n",))


@draws("QLinearMatMul")
def quantised_products(draw: Draw, op: str) -> Example:
    depth, columns = pick(draw, 1, 5, 33), pick(draw, 1, 8, 17)
    kind = pick(draw, "int8", "uint8")

    def scale(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return np.asarray(2.0 ** rng.integers(-6, -2, lengths), np.float32)

    names = ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero")
    inputs = {name: Input((), scale) for name in names if name.endswith("scale")}
    inputs |= {name: tensor(kind) for name in names if name.endswith("zero")}
    inputs["a"] = tensor(kind, "n", depth, low=-90, high=90)
    inputs["b"] = tensor(kind, depth, columns, low=-90, high=90)
    return one(op, inputs, *names, zero=("n",))


def convolved(draw: Draw, kind: str) -> tuple[dict[str, Input], dict[str, Any]]:
    """Image and filters of a data type, and attributes without `auto_pad`."""
    rank, group = number(draw, 1, 3), pick(draw, 1, 2)
    found = window(draw, rank)
    attributes = {k: v for k, v in found.attributes.items() if k != "auto_pad"} | {"group": group}
    channels = pick(draw, 1, 3)
    inputs = {"x": tensor(kind, "n", group * channels, *found.axes, scale=1)}
    inputs["w"] = tensor(kind, group * pick(draw, 1, 3), channels, *found.kernel, scale=1)
    return inputs, attributes


@draws("Conv")
def convolutions(draw: Draw, op: str) -> Example:
    inputs, attributes = convolved(draw, "float64")
    if flag(draw):
        inputs["b"] = tensor("float64", inputs["w"].shape[0])
    return one(op, inputs, zero=("n",), least=OPEN, **attributes)


@draws("ConvInteger")
def integer_convolutions(draw: Draw, op: str) -> Example:
    inputs, attributes = convolved(draw, "uint8")
    if flag(draw):
        inputs["zero"] = tensor("uint8")
    return one(op, inputs, zero=("n",), least=OPEN, **attributes)


@draws("QLinearConv")
def quantised_convolutions(draw: Draw, op: str) -> Example:
    made, attributes = convolved(draw, "uint8")

    def scale(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return np.asarray(2.0 ** rng.integers(-6, -2, lengths), np.float32)

    names = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]
    inputs = made | {name: Input((), scale) for name in names if name.endswith("scale")}
    inputs |= {name: tensor("uint8") for name in names if name.endswith("zero")}
    if flag(draw):
        inputs["b"] = tensor("int32", inputs["w"].shape[0])
        names.append("b")
    return one(op, inputs, *names, zero=("n",), least=OPEN, **attributes)
