"""Element-wise operators: any shapes that broadcast, any data type that they are native for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import helper

from tests.engine.plan.lower.drawn.support import (
    ANY,
    FLOATS,
    INTEGERS,
    SIGNED,
    UNSIGNED,
    Draw,
    Shape,
    broadcast,
    draws,
    flag,
    number,
    pick,
    shape,
    tensor,
)
from tests.engine.plan.lower.example import Array, Example, Input, Sizes, one

REAL = ("float32", "float16")
"""Types of functions that exist for float32 only."""

ALPHA = st.sampled_from([0.01, 0.2, 0.75, 1.0, 1.3, 2.0])

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Celu": {"alpha": ALPHA},
    "Elu": {"alpha": ALPHA},
    "Gelu": {"approximate": st.sampled_from(["none", "tanh"])},
    "HardSigmoid": {"alpha": ALPHA, "beta": ALPHA},
    "LeakyRelu": {"alpha": st.sampled_from([0.01, 0.2, 1.5, -0.3])},
    "Selu": {"alpha": ALPHA, "gamma": ALPHA},
    "Swish": {"alpha": ALPHA},
    "ThresholdedRelu": {"alpha": ALPHA},
}

UNARY_TYPES: dict[str, tuple[str, ...]] = {
    "Abs": (*FLOATS, *INTEGERS),
    "Ceil": FLOATS,
    "Celu": ("float32",),
    "Cos": REAL,
    "Elu": REAL,
    "Erf": REAL,
    "Exp": REAL,
    "Floor": FLOATS,
    "Gelu": REAL,
    "HardSigmoid": FLOATS,
    "HardSwish": FLOATS,
    "Identity": ANY,
    "LeakyRelu": FLOATS,
    "Mish": REAL,
    "Neg": (*FLOATS, *SIGNED),
    "Reciprocal": FLOATS,
    "Relu": (*FLOATS, *SIGNED),
    "Round": FLOATS,
    "Selu": REAL,
    "Sigmoid": REAL,
    "Sign": (*FLOATS, *INTEGERS),
    "Sin": REAL,
    "Softplus": REAL,
    "Softsign": REAL,
    "Swish": REAL,
    "Tan": ("float32",),
    "Tanh": REAL,
    "ThresholdedRelu": FLOATS,
}

BINARY_TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), (*FLOATS, *INTEGERS)),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), (*FLOATS, *INTEGERS)),
    "Equal": ANY,
    **dict.fromkeys(("And", "Or", "Xor"), ("bool",)),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), INTEGERS),
}


def has_rows(full: Shape) -> bool:
    return full[:1] == ("n",)


@draws(*UNARY_TYPES)
def unary(draw: Draw, op: str) -> Example:
    dtype, axes = draw(st.sampled_from(UNARY_TYPES[op])), shape(draw, 0, 5)
    chosen = {name: draw(values) for name, values in ATTRIBUTES.get(op, {}).items() if flag(draw)}
    opset = 24 if op == "Swish" else 21
    away = op in ("Reciprocal", "Tan")
    source = positive(dtype, axes, 0.2, 1.3) if away else tensor(dtype, *axes)
    return one(op, {"x": source}, rows=has_rows(axes), opset=opset, **chosen)


def positive(dtype: str, axes: Shape, low: float, high: float) -> Input:
    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return rng.uniform(low, high, lengths).astype(dtype)

    return Input(axes, values)


@draws("Log", "Sqrt")
def roots(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *(REAL if op == "Log" else FLOATS)), shape(draw, 0, 4)
    return one(op, {"x": positive(dtype, axes, 0.01, 50)}, rows=has_rows(axes))


@draws("IsInf", "IsNaN")
def special(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *FLOATS), shape(draw, 0, 4)

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        return rng.choice([0.0, -1.5, np.nan, np.inf, -np.inf], lengths).astype(dtype)

    names = ("detect_negative", "detect_positive") if op == "IsInf" else ()
    chosen = {name: number(draw, 0, 1) for name in names}
    return one(op, {"x": Input(axes, values)}, rows=has_rows(axes), **chosen)


@draws("Not", "BitwiseNot")
def inverted(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *(("bool",) if op == "Not" else INTEGERS)), shape(draw, 0, 4)
    return one(op, {"x": tensor(dtype, *axes)}, rows=has_rows(axes))


def operands(
    draw: Draw, dtype: str, count: int, full: Shape, whole: int | None = None
) -> dict[str, Input]:
    """Inputs that broadcast to `full`, one of which has all of its axes."""
    whole = number(draw, 0, count - 1) if whole is None else whole
    shapes = [full if i == whole else broadcast(draw, full) for i in range(count)]
    return {f"x{i}": tensor(dtype, *axes) for i, axes in enumerate(shapes)}


@draws(*BINARY_TYPES)
def binary(draw: Draw, op: str) -> Example:
    dtype, full = draw(st.sampled_from(BINARY_TYPES[op])), shape(draw, 0, 5)
    inputs = operands(draw, dtype, 2, full)
    if op == "Div":
        inputs["x1"] = without_zero(inputs["x1"])
    return one(op, inputs, rows=has_rows(full))


def without_zero(source: Input) -> Input:
    """The same numbers, at least 1 from zero."""

    def values(rng: np.random.Generator, lengths: tuple[int, ...], sizes: Sizes) -> Array:
        drawn = source.draw(rng, lengths, sizes)
        ones = np.ones_like(drawn)
        return np.where(drawn < 0, drawn - ones, drawn + ones)

    return replace(source, draw=values)


@draws("Mod")
def modulus(draw: Draw, op: str) -> Example:
    dtype, full = pick(draw, "float32", "float64", *INTEGERS), shape(draw, 0, 4)
    inputs = operands(draw, dtype, 2, full)
    inputs["x1"] = without_zero(inputs["x1"])
    fmod = int(dtype in FLOATS) or number(draw, 0, 1)
    return one(op, inputs, rows=has_rows(full), fmod=fmod)


@draws("BitShift")
def shifts(draw: Draw, op: str) -> Example:
    dtype, full = pick(draw, *UNSIGNED), shape(draw, 0, 4)
    inputs = operands(draw, dtype, 2, full)
    inputs["x1"] = tensor(dtype, *inputs["x1"].shape, high=7)
    return one(op, inputs, rows=has_rows(full), direction=pick(draw, "LEFT", "RIGHT"))


@draws("Sum", "Mean")
def variadic(draw: Draw, op: str) -> Example:
    dtype, full = pick(draw, *FLOATS), shape(draw, 0, 4)
    # The onnx package, asked about float64, adds into the first operand.
    inputs = operands(draw, dtype, number(draw, 2, 4), full, None if dtype == "float32" else 0)
    return one(op, inputs, rows=has_rows(full))


@draws("PRelu")
def parametric(draw: Draw, op: str) -> Example:
    dtype, full = pick(draw, "float32", "float64", "int32", "int64"), shape(draw, 1, 4)
    slope = tensor(dtype, *broadcast(draw, full))
    return one(op, {"x": tensor(dtype, *full), "slope": slope})


@draws("Pow")
def powers(draw: Draw, op: str) -> Example:
    full = shape(draw, 0, 4)
    if flag(draw):
        dtype = pick(draw, "float32", "float64", "int32", "int64")
        exponent = np.array(number(draw, 0, 3), dtype)
        base = {"x": tensor(dtype, *full)}
        return one(op, base, constants={"e": exponent}, rows=has_rows(full))
    inputs = {
        "x": positive("float32", full, 0.2, 4),
        "e": tensor(
            pick(draw, "float32", "int32", "int64"), *broadcast(draw, full), low=-3, high=3
        ),
    }
    return one(op, inputs, rows=has_rows(full))


@draws("Where")
def choices(draw: Draw, op: str) -> Example:
    dtype, full = pick(draw, *ANY), shape(draw, 0, 4)
    inputs = operands(draw, dtype, 3, full)
    inputs["x0"] = tensor("bool", *inputs["x0"].shape)
    return one(op, inputs, rows=has_rows(full))


@draws("Clip")
def bounds(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, "float32", "float64", "int8", "uint8", "int32", "int64"), shape(draw)
    low, high = np.array(1, dtype), np.array(number(draw, 2, 5), dtype)
    kind = pick(draw, "constants", "inputs", "low", "high", "none")
    inputs = {"x": tensor(dtype, *axes)}
    if kind == "inputs":
        return one(op, inputs | {"low": _same(low), "high": _same(high)})
    order = {"constants": ("x", "low", "high"), "low": ("x", "low"), "high": ("x", "", "high")}
    names = order.get(kind, ("x",))
    constants = {k: v for k, v in (("low", low), ("high", high)) if k in names}
    return one(op, inputs, *names, constants=constants)


def _same(array: Array) -> Input:
    return Input(array.shape, lambda rng, lengths, sizes: array)


@draws("Cast", "CastLike")
def casts(draw: Draw, op: str) -> Example:
    source, target, axes = pick(draw, *ANY), pick(draw, *ANY), shape(draw, 0, 4)
    inputs = {"x": tensor(source, *axes)}
    if target in UNSIGNED and source not in UNSIGNED:
        inputs["x"] = tensor(source, *axes, low=0) if source in INTEGERS else inputs["x"]
        if source in FLOATS:
            inputs["x"] = positive(source, axes, 0, 90)
    if op == "CastLike":
        return one(op, inputs | {"like": tensor(target, 2)}, rows=has_rows(axes))
    to = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    return one(op, inputs, rows=has_rows(axes), to=to)


@draws("packhorse.Elementwise")
def chains(draw: Draw, op: str) -> Example:
    """Two to five operators in a row, each on what came before and perhaps a new input."""
    full = shape(draw, 1, 4)
    inputs, nodes, last = {"x": tensor("float32", *full)}, [], "x"
    count = number(draw, 2, 5)
    for place in range(count):
        result = "y" if place == count - 1 else f"v{place}"
        chosen = pick(draw, "Tanh", "Sigmoid", "Neg", "Abs", "Add", "Mul", "Max", "Where")
        names = [last]
        if chosen in ("Add", "Mul", "Max", "Where"):
            inputs[f"i{place}"] = tensor("float32", *broadcast(draw, full))
            names.insert(number(draw, 0, 1), f"i{place}")
        if chosen == "Where":
            nodes.append(helper.make_node("Less", [last, f"i{place}"], [f"c{place}"]))
            names.insert(0, f"c{place}")
        nodes.append(helper.make_node(chosen, names, [result]))
        last = result
    return Example(nodes, inputs)
