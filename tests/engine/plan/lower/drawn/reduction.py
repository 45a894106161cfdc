"""Reductions, softmax and normalisations: any axes, lengths of one and of a vector and one more."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.engine.plan.lower.drawn.elementwise import positive
from tests.engine.plan.lower.drawn.support import (
    LENGTHS,
    Draw,
    Shape,
    axis_of,
    draws,
    flag,
    number,
    pick,
    shape,
    tensor,
)
from tests.engine.plan.lower.example import Array, Example, Input, Sizes, ints, one, weights

REAL = ("float32", "float64")
REDUCED_TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceProd", "ReduceMean"),
        (*REAL, "int32", "int64"),
    ),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), (*REAL, "int32", "int64", "int8", "uint8", "bool")),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp"), ("float32",)),
}


@draws(*REDUCED_TYPES)
def reductions(draw: Draw, op: str) -> Example:
    dtype, axes = draw(st.sampled_from(REDUCED_TYPES[op])), shape(draw, 1, 5)
    chosen = sorted(draw(st.sets(st.integers(0, len(axes) - 1))))
    if len(axes) > 1 and flag(draw):
        chosen = [axis for axis in chosen if axis]
    given = [axis - len(axes) if flag(draw) else axis for axis in chosen]
    whole = not chosen
    flags: dict[str, Any] = {"keepdims": number(draw, 0, 1)}
    if whole:
        flags["noop_with_empty_axes"] = number(draw, 0, 1)
    x = tensor(dtype, *axes, scale=0.5, low=1, high=2)
    if op == "ReduceLogSum":
        x = positive(dtype, axes, 0.1, 3)
    if op == "ReduceProd":
        x = factors(dtype, axes)
    nothing = {axes[axis] for axis in chosen} if chosen else set(axes)
    # Of nothing, the onnx package is asked, which widens sums of integers.
    zero = tuple(name for name in ("n", "w") if name not in nothing and dtype in REAL)
    if op in ("ReduceSum", "ReduceL1", "ReduceSumSquare") and dtype in REAL:
        zero = ("n", "w")
    return one(
        op,
        {"x": x},
        constants={"axes": ints(*given)},
        rows=0 not in chosen and not (whole and not flags.get("noop_with_empty_axes")),
        zero=zero,
        opset=20 if dtype == "bool" else 18,
        **flags,
    )


def factors(dtype: str, axes: Shape) -> Input:
    """Numbers of either sign whose product neither overflows nor vanishes."""

    def values(rng: np.random.Generator, lengths: tuple[int, ...], _: Sizes) -> Array:
        signs = rng.choice([-1.0, 1.0], lengths)
        return (signs if "int" in dtype else signs * rng.uniform(0.99, 1.01, lengths)).astype(dtype)

    return Input(axes, values)


@draws("Softmax", "LogSoftmax")
def shares(draw: Draw, op: str) -> Example:
    axes, opset = shape(draw, 1, 4), pick(draw, 11, 13, 21)
    axis, given = axis_of(draw, axes)
    rows = axis > 0
    scale = pick(draw, 1, 30)
    x = {"x": tensor("float32", *axes, scale=scale)}
    return one(op, x, axis=given, rows=rows, opset=opset, zero=("n",) if rows else ())


@draws("LayerNormalization")
def layers(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *REAL), shape(draw, 2, 4)
    fixed = len(axes) - 1
    axes = tuple(draw(LENGTHS) if i == fixed and a == "w" else a for i, a in enumerate(axes))
    length = axes[-1]
    assert isinstance(length, int)
    constants = {"s": weights(length).astype(dtype)}
    if flag(draw):
        constants["b"] = weights(length, seed=6).astype(dtype)
    outputs = ("y", "mean", "inverse")[: pick(draw, 1, 1, 3)] if dtype == "float32" else ("y",)
    epsilon = {"epsilon": pick(draw, 1e-5, 1e-3, 0.1)}
    given = pick(draw, -1, fixed)
    x = {"x": tensor(dtype, *axes)}
    return one(op, x, constants=constants, outputs=outputs, axis=given, **epsilon)


@draws("RMSNormalization", "SimplifiedLayerNormalization")
def root_mean_squares(draw: Draw, op: str) -> Example:
    axes = (*shape(draw, 1, 3), draw(LENGTHS))
    constants = {"s": weights(axes[-1])}
    epsilon = {"epsilon": pick(draw, 1e-5, 1e-2)}
    opset = 23 if op == "RMSNormalization" else 21
    return one(op, {"x": tensor("float32", *axes)}, constants=constants, opset=opset, **epsilon)


def channels(draw: Draw, count: int) -> tuple[int | str, ...]:
    """Images of `count` channels with one to three spatial axes, one of them open."""
    spatial: list[int | str] = [pick(draw, 1, 2, 5, 8) for _ in range(number(draw, 1, 3))]
    spatial[number(draw, 0, len(spatial) - 1)] = "w"
    return ("n", count, *spatial)


def scale_and_shift(count: int, dtype: str = "float32") -> dict[str, Array]:
    return {"s": weights(count).astype(dtype), "b": weights(count, seed=6).astype(dtype)}


@draws("InstanceNormalization")
def instances(draw: Draw, op: str) -> Example:
    count = pick(draw, 1, 2, 5, 16, 17)
    x = {"x": tensor("float32", *channels(draw, count))}
    epsilon = {"epsilon": pick(draw, 1e-5, 1e-2)}
    return one(op, x, constants=scale_and_shift(count), zero=("n",), least={"w": 2}, **epsilon)


@draws("GroupNormalization")
def groups(draw: Draw, op: str) -> Example:
    count, size, opset = number(draw, 1, 4), number(draw, 1, 5), pick(draw, 18, 21)
    x = {"x": tensor("float32", *channels(draw, count * size))}
    constants = scale_and_shift(count if opset == 18 else count * size)
    found = {"zero": (), "least": {"w": 2}, "opset": opset}
    return one(op, x, constants=constants, num_groups=count, **found)


@draws("LpNormalization")
def unit_vectors(draw: Draw, op: str) -> Example:
    dtype, axes = pick(draw, *REAL), shape(draw, 1, 4)
    axis, given = axis_of(draw, axes)
    x = {"x": positive(dtype, axes, 0.2, 3)}
    return one(op, x, axis=given, p=number(draw, 1, 2), rows=axis > 0)


@draws("MeanVarianceNormalization")
def standardised(draw: Draw, op: str) -> Example:
    spatial = [pick(draw, 2, 5, 8), "w"]
    axes = ("n", number(draw, 1, 5), *spatial)
    chosen = pick(draw, [0, 2, 3], [2, 3], [1, 2, 3], [0, 1, 2, 3], [3], [1, 3])
    x = {"x": tensor("float32", *axes)}
    return one(op, x, axes=chosen, rows=0 not in chosen, zero=(), least={"n": 2, "w": 3})


@draws("BatchNormalization")
def batch_statistics(draw: Draw, op: str) -> Example:
    count, dtype = pick(draw, 1, 3, 16, 17), pick(draw, *REAL)
    axes = channels(draw, count) if flag(draw) else ("n", count)
    constants = {
        **scale_and_shift(count, dtype),
        "m": weights(count, seed=7).astype(dtype),
        "v": weights(count, seed=8).astype(dtype) ** 2 + np.array(0.1, dtype),
    }
    return one(op, {"x": tensor(dtype, *axes)}, constants=constants, epsilon=pick(draw, 1e-5, 0.01))


@draws("LRN")
def neighbours(draw: Draw, op: str) -> Example:
    axes = ("n", pick(draw, 1, 3, 8, 17), pick(draw, 1, 5), "w")
    chosen = {
        "alpha": pick(draw, 1e-4, 0.3),
        "beta": pick(draw, 0.75, 0.5),
        "bias": pick(draw, 1.0, 2.0),
    }
    size = pick(draw, 1, 3, 5)
    return one(op, {"x": tensor("float32", *axes)}, size=size, **chosen)
