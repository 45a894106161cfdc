"""Products: matrices of any rank, attention, recurrent layers, ensembles of trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import helper

from benchmarks.models import trees
from engine.kernels import product
from tests.engine.plan.lower.drawn.support import (
    LENGTHS,
    Draw,
    Shape,
    broadcast,
    draws,
    flag,
    number,
    pick,
    tensor,
)
from tests.engine.plan.lower.example import Array, Example, Input, one, weights


@draws("MatMul")
def products(draw: Draw, op: str) -> Example:
    """By weights, by another input, by vectors, with batch axes that broadcast."""
    depth, columns = draw(LENGTHS), draw(LENGTHS)
    dtype = pick(draw, "float32", "float32", *product.DTYPES)
    lead: Shape = ("n", *draw(st.lists(LENGTHS, max_size=3 if dtype != "float32" else 1)))
    a = tensor(dtype, *lead, "w", depth, scale=1)
    kind = pick(draw, "weights", "vector", "batch", "computed", "row")

    def constant(*axes: int) -> Array:
        return (weights(*axes) if dtype == "float32" else weights(*axes) * 3).astype(dtype)

    if kind == "weights":
        flat = tensor(dtype, *pick(draw, ("n",), lead), depth, scale=1)
        return one(op, {"a": flat}, constants={"b": constant(depth, columns)}, zero=("n",))
    if kind == "vector":
        # onnxruntime refuses vectors of nothing.
        return one(op, {"a": a}, constants={"b": constant(depth)}, zero=())
    if kind == "row":
        # onnxruntime refuses a row times matrices of an empty batch.
        b = tensor(dtype, *lead, depth, "w", scale=1)
        return one(op, {"a": tensor(dtype, depth, scale=1), "b": b}, zero=())
    if kind == "batch":
        inner = lead[1:]
        b = tensor(dtype, *(1 if flag(draw) else n for n in inner), depth, columns, scale=1)
        # onnxruntime refuses to broadcast matrices over an empty batch.
        return one(op, {"a": a, "b": b}, zero=("w",) if inner else ("n", "w"))
    return one(op, {"a": a, "b": tensor(dtype, *lead, depth, columns, scale=1)})


@draws("Gemm")
def general(draw: Draw, op: str) -> Example:
    depth, columns = draw(LENGTHS), draw(LENGTHS)
    turned = number(draw, 0, 1)
    attributes: dict[str, Any] = {"transB": turned}
    attributes |= {name: pick(draw, 0.5, 2.0) for name in ("alpha", "beta") if flag(draw)}
    b_axes = (columns, depth) if turned else (depth, columns)
    a_turned = number(draw, 0, 1)
    a: Shape = (depth, "n") if a_turned else ("n", depth)
    inputs = {"a": tensor("float32", *a, scale=1)}
    constants = {}
    if flag(draw):
        constants["b"] = weights(*b_axes)
    else:
        inputs["b"] = tensor("float32", *b_axes, scale=1)
    names = ["a", "b"]
    if flag(draw):
        names.append("c")
        if flag(draw):
            constants["c"] = weights(*pick(draw, (), (1,), (columns,), (1, columns)))
        else:
            inputs["c"] = tensor("float32", *broadcast(draw, ("n", columns)))
    attributes["transA"] = a_turned
    rows = not a_turned
    return one(op, inputs, *names, constants=constants, zero=("n",), rows=rows, **attributes)


@draws("packhorse.MatMul")
def layers(draw: Draw, op: str) -> Example:
    """A product with a bias, perhaps an activation and a residual."""
    depth, columns = draw(LENGTHS), draw(LENGTHS)
    nodes = [
        helper.make_node("MatMul", ["a", "m"], ["p"]),
        helper.make_node("Add", pick(draw, ["p", "v"], ["v", "p"]), ["q"]),
    ]
    inputs = {"a": tensor("float32", "n", "w", depth, scale=1)}
    after = pick(draw, "Relu", "Tanh", "Sigmoid", "Gelu")
    residual = flag(draw)
    nodes.append(helper.make_node(after, ["q"], ["r" if residual else "y"]))
    if residual:
        inputs["z"] = tensor("float32", "n", "w", columns)
        nodes.append(helper.make_node("Add", pick(draw, ["r", "z"], ["z", "r"]), ["y"]))
    return Example(nodes, inputs, {"m": weights(depth, columns), "v": weights(columns)})


@draws("packhorse.Attention")
def attentions(draw: Draw, op: str) -> Example:
    """Any sizes of heads; perhaps a mask that is added, and the heads side by side after."""
    heads, size, value_size = (
        pick(draw, 1, 2, 3),
        pick(draw, 1, 5, 8, 16, 17),
        pick(draw, 1, 4, 16, 33),
    )
    keys: int | str = pick(draw, "w", 3, 9)
    inputs = {
        "q": tensor("float32", "n", heads, "w", size, scale=1),
        "k": tensor("float32", "n", heads, keys, size, scale=1),
        "v": tensor("float32", "n", heads, keys, value_size, scale=1),
    }
    nodes = [
        helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "t"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
    ]
    last = "scaled"
    if flag(draw):
        inputs["mask"] = tensor("float32", *pick(draw, ("n", 1, 1, keys), (1, 1, "w", keys)))
        nodes.append(helper.make_node("Add", ["scaled", "mask"], ["masked"]))
        last = "masked"
    sideways = flag(draw)
    nodes.append(helper.make_node("Softmax", [last], ["shares"], axis=-1))
    nodes.append(helper.make_node("MatMul", ["shares", "v"], ["h" if sideways else "y"]))
    if sideways:
        nodes.append(helper.make_node("Transpose", ["h"], ["y"], perm=[0, 2, 1, 3]))
    zero = ("n",) if keys == "w" else ("n", "w")
    return Example(nodes, inputs, {"scale": np.float32(0.35)}, zero=zero)


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@draws(*GATES)
def recurrent(draw: Draw, op: str) -> Example:
    """Rows are sequences; directions, initial states, lengths of their own, clipping."""
    gates, hidden, size = GATES[op], pick(draw, 1, 3, 8, 17), pick(draw, 1, 4, 9)
    direction = pick(draw, "forward", "reverse", "bidirectional")
    count = 2 if direction == "bidirectional" else 1
    inputs = {"x": tensor("float32", "w", "n", size, scale=1)}
    constants = {
        "w": weights(count, gates * hidden, size) / 2,
        "r": weights(count, gates * hidden, hidden, seed=6) / 3,
    }
    names = ["x", "w", "r", "", "", "", "", ""]
    if flag(draw):
        constants["b"], names[3] = weights(count, 2 * gates * hidden, seed=7) / 2, "b"
    if flag(draw):
        names[4] = "lens"
        inputs["lens"] = Input(
            ("n",),
            lambda rng, lengths, sizes: rng.integers(1, sizes["w"] + 1, lengths).astype(np.int32),
        )
    if flag(draw):
        inputs["h"], names[5] = tensor("float32", count, "n", hidden, scale=0.5), "h"
    if op == "LSTM" and flag(draw):
        inputs["c"], names[6] = tensor("float32", count, "n", hidden, scale=0.5), "c"
    if op == "LSTM" and flag(draw):
        constants["p"], names[7] = weights(count, 3 * hidden, seed=8) / 2, "p"
    while not names[-1]:
        names.pop()
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if op == "GRU":
        attributes["linear_before_reset"] = number(draw, 0, 1)
    if flag(draw):
        attributes["clip"] = 0.8
    outputs = ("y", "yh", "yc") if op == "LSTM" else ("y", "yh")
    given: dict[str, Any] = {"outputs": outputs, "rows": False, "zero": ()}
    return one(op, inputs, *names, constants=constants, **given, **attributes)


@draws("packhorse.Trees")
def ensembles(draw: Draw, op: str) -> Example:
    features, outputs = number(draw, 1, 9), number(draw, 1, 3)
    modes = pick(
        draw,
        ("BRANCH_LEQ",),
        ("BRANCH_LT",),
        ("BRANCH_GTE",),
        ("BRANCH_GT",),
        ("BRANCH_LEQ", "BRANCH_GT"),
    )
    drawn = trees.drawn(
        number(draw, 0, 99),
        pick(draw, outputs, 5, 20),
        pick(draw, 2, 9, 31),
        features,
        outputs,
        modes=modes,
        missing=flag(draw),
    )
    x = {"x": tensor("float32", "n", features)}
    kind = {"aggregate_function": pick(draw, "SUM", "AVERAGE", "MIN", "MAX")}
    kind["post_transform"] = pick(draw, "NONE", "LOGISTIC")
    lists = drawn.attributes("target")
    found: dict[str, Any] = {"domain": "ai.onnx.ml", "zero": ("n",), "n_targets": outputs}
    return one("TreeEnsembleRegressor", x, **found, **kind, **lists)
