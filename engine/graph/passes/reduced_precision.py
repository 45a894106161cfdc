"""Products of bf16 numbers.

A product ``y = sum(a · w)`` becomes ``sum(a · r(w))``, and where the CPU has bf16 arithmetic, or it
is emulated, ``sum(r(a) · r(w))``: r rounds to bfloat16, to nearest with ties to even. Kernels of
pairs (`engine.kernels.pairs`) round what they multiply with constant weights. For other products
the graph rounds, where bf16 arithmetic is emulated: the product of two such numbers has 16
significant bits, so float32 holds it exactly, and the sums in float32 are those of bf16 arithmetic.

Products are matrix products, convolutions with more than one channel per group, transposed
convolutions, recurrent layers and attention. Of recurrent layers, the weights and the input are
rounded; the state stays float32 from step to step. Of attention, queries, keys, values and the
exponentials that multiply the values are rounded; scores and softmax stay float32. Bias, epilogue
and all other operators stay float32.

Runs last: weights are rounded as they are packed, with scales and normalisations folded in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import numpy as np
from ml_dtypes import bfloat16

from engine.codegen.expression import Expr
from engine.errors import InputError
from engine.graph.ir import OURS, AnyArray, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.precision import ARITHMETIC, WEIGHTS, Precision

_FACTORS: Final = {
    "MatMul": (0, 1),
    "packhorse.MatMul": (0, 1),
    "Gemm": (0, 1),
    "packhorse.Conv": (0, 1),
    "packhorse.ConvTranspose": (0, 1),
    "packhorse.Heads": (0, 1),
    "packhorse.PlaneConv": (0, 1),
    "LSTM": (0, 1, 2),
    "GRU": (0, 1, 2),
    "RNN": (0, 1, 2),
    "packhorse.Attention": (0, 1, 2),
}
"""Inputs of each kind of product that are multiplied."""


@dataclass(frozen=True)
class Reduction:
    """Labels of a model's products, in order: all, those in bf16, those with weights in bf16."""

    products: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


def reduced_precision(
    graph: Graph, precision: Precision, native: bool
) -> tuple[PassReport, Reduction]:
    """Reduce the graph and its subgraphs as `precision` says.

    `native` tells whether the CPU has bf16 arithmetic, for which there are kernels that multiply
    what is computed with constant weights.
    Raises InputError where it keeps a node in float32 that is no product.
    """
    found = [(node, inner) for inner in all_graphs(graph) for node in products(inner)]
    labels = tuple(node.label for node, _ in found)
    _check(precision, labels)
    last = len(found) if precision.first is None else precision.first
    chosen = {id(node) for node, _ in found[:last] if node.label not in precision.keep}
    names = Names(graph)
    rounded: dict[int, tuple[Value, Value]] = {}
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        values: dict[int, Value] = {}
        for node in rewriter.nodes():
            if id(node) in chosen:
                _reduce(rewriter, node, precision.emulate, native, rounded, values)
        changes += rewriter.finish()
    left = {id(value) for inner in all_graphs(graph) for value in inner.values()}
    for before, after in rounded.values():
        if id(before) in left:
            after.name = names.fresh(f"{before.name}.bf16")
    whole, weights = (
        tuple(n.label for n, _ in found if n.attribute("precision") == kind)
        for kind in (ARITHMETIC, WEIGHTS)
    )
    done = {*whole, *weights}
    notes = [f"{n.label} stays in fp32: {_why(n, chosen)}" for n, _ in found if n.label not in done]
    return PassReport("reduced_precision", changes, notes), Reduction(labels, whole, weights)


def products(graph: Graph) -> Iterator[Node]:
    """Products of a graph, without its subgraphs, that bf16 arithmetic is for."""
    for node in graph.nodes:
        places = _FACTORS.get(node.key, ())
        factors = [node.input(place) for place in places]
        floats = all(value is not None and value.dtype == np.float32 for value in factors)
        if places and floats and not _is_depthwise(node):
            yield node


def _is_depthwise(node: Node) -> bool:
    """Whether each channel is multiplied by itself: no sum is long enough for a dot product."""
    weight = node.inputs[1]
    if node.key != "packhorse.Conv" or weight is None or not weight.shape or len(weight.shape) < 2:
        return False
    return weight.shape[1] == 1 and int(node.attribute("group", 1)) > 1


def _why(node: Node, chosen: set[int]) -> str:
    return "it has no weights" if id(node) in chosen else "the caller asks for it"


def _check(precision: Precision, labels: tuple[str, ...]) -> None:
    for name in precision.keep:
        if name not in labels:
            near = get_close_matches(name, labels, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "see packhorse explain"
            raise InputError(f"there is no product {name!r} to keep in fp32; {hint}")


def _reduce(
    rewriter: Rewriter,
    node: Node,
    emulate: bool,
    native: bool,
    rounded: dict[int, tuple[Value, Value]],
    values: dict[int, Value],
) -> None:
    inputs = list(node.inputs)
    packed = _is_packed(node)
    for place in _FACTORS[node.key]:
        value = inputs[place]
        assert value is not None
        if value.data is not None:
            # A weight that several products share is rounded, and packed, once.
            if id(value) not in rounded:
                array = rounded_to_bfloat16(value.data)
                rounded[id(value)] = value, Value(value.name, value.dtype, value.shape, array)
            inputs[place] = rounded[id(value)][1]
        elif emulate and not packed:
            if id(value) not in values:
                values[id(value)] = _rounding(rewriter, node, value)
            inputs[place] = values[id(value)]
    if any(new is not old for new, old in zip(inputs, node.inputs, strict=True)):
        node.attributes["precision"] = ARITHMETIC if emulate or (native and packed) else WEIGHTS
        rewriter.rewire(node, inputs)


def _is_packed(node: Node) -> bool:
    """Whether the weights are constants that are packed at load, for a kernel that rounds what it
    multiplies them with."""
    if node.op in ("Attention", "Heads", "PlaneConv"):
        return False
    matrix = node.inputs[1]
    places = (1, 2, 3, 7) if len(_FACTORS[node.key]) > 2 else (1,)
    weights = [value for place in places if (value := node.input(place)) is not None]
    batched = node.op == "MatMul" and matrix is not None and len(matrix.shape or ()) > 2
    return all(value.data is not None for value in weights) and not batched


def _rounding(rewriter: Rewriter, anchor: Node, value: Value) -> Value:
    made = rewriter.value(f"{value.name}.bf16", value)
    expression = Expr.input(0, "float32").cast("bfloat16").cast("float32")
    node = Node("Elementwise", [value], [made], {"expression": expression}, OURS, 1)
    rewriter.insert(anchor, node)
    return made


def rounded_to_bfloat16(array: AnyArray) -> AnyArray:
    """The nearest bfloat16 numbers, ties to even, as float32."""
    return np.asarray(array).astype(bfloat16).astype(np.float32)
