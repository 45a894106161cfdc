"""Attention from its parts: ``packhorse.Attention``.

For queries q, keys k and values v with equal leading axes,

    Attention(q, k, v, e...) = softmax(f(q kᵀ, e...)) v

where f is whatever element-wise operators stand between the first product and the softmax: scale,
mask as a sum or as Where, bias, soft cap (Vaswani et al., Attention is all you need, section 3.2.1;
the forms are those of the torch and TensorFlow exporters). Constant factors of q and k, as torch
writes the scale, move into f. ``Where(IsNaN(p), 0, p)`` behind the softmax makes rows that are
masked entirely zero (attribute `guarded`). A transpose of the result to [batch, length, heads,
size] becomes the attribute `transposed`.

Preconditions: float32; the softmax runs over the keys; scores and probabilities have no other
reader; other inputs of f either have one value per key or are constant along the keys.

`standard_attention` turns the operator Attention of opsets 23 and 24 into the same form. Its
heads of queries may be a multiple of its heads of keys. A call that asks for the scores, gives
lengths per batch or computes in another precision is left to `functions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.codegen.expression import Expr
from engine.codegen.onnx_expression import from_node
from engine.graph.dims import Dim
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, scalar
from engine.graph.passes.transposes import permutation

_ONE = Dim.of(1)
_MAX_EXTRAS = 4
_MAX_OPERATIONS = 24
_SCORE = Expr.input(0, "float32")
_ATTENTION = 1
"""Version of the operator in our domain."""


@dataclass
class _Scores:
    """Function of a product: an expression of it (input 0) and of further values."""

    product: Node
    expr: Expr = _SCORE
    extras: list[Value] = field(default_factory=list)


def attention(graph: Graph) -> PassReport:
    """Recognise attention in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "Softmax":
                reason = _match(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: Softmax is no attention: {reason}")
        changes += rewriter.finish()
    return PassReport("attention", changes, notes)


def _match(rewriter: Rewriter, softmax: Node) -> str | None:
    """Replace the attention around a softmax; the reason against it, None where it is far off."""
    scores, probabilities = softmax.inputs[0], softmax.outputs[0]
    if scores is None or scores.shape is None:
        return None
    rank = len(scores.shape)
    if rank < 2 or int(softmax.attribute("axis", -1)) % rank != rank - 1:
        return None
    found = _function(rewriter, scores, softmax)
    if found is None or isinstance(found, str):
        return found
    guard = _guard(rewriter, softmax)
    if guard is not None:
        probabilities = guard.outputs[0]
    product = rewriter.only_reader(probabilities)
    if product is None:
        return "the probabilities have other readers"
    if product.key != "MatMul" or product.inputs[0] is not probabilities:
        return f"{product.op} {product.label} reads the probabilities, not a product with values"
    first, values = found.product, product.inputs[1]
    query, key = first.inputs[0], first.inputs[1]
    assert query is not None
    assert key is not None
    assert values is not None
    if any(v.dtype != np.float32 for v in (query, key, values)):
        return "it does not compute in float32"
    shapes = [value.shape for value in (query, key, values)]
    if any(shape is None or len(shape) != rank for shape in shapes):
        return "queries, keys and values differ in rank"
    if rank > 4:
        return f"it has {rank - 2} leading axes; the kernel steps through two"
    reason = _misfit(found, scores.shape[-1], rank)
    if reason:
        return reason
    query, key, found.expr = _absorb_scale(query, key, found.expr)
    last, transposed = _result(rewriter, product, rank)
    axes = [*range(rank - 2), rank - 1, rank - 2]
    keys = rewriter.value(f"{softmax.label}/keys")
    turned = Node("Transpose", [key], [keys], {"perm": axes}, version=13, name=keys.name)
    attributes: dict[str, Any] = {
        "score": None if found.expr is _SCORE else found.expr,
        "guarded": guard is not None,
        "transposed": transposed,
    }
    inputs: list[Value | None] = [query, keys, values, *found.extras]
    made = Node("Attention", inputs, [], attributes, OURS, _ATTENTION)
    rewriter.insert(last, turned)
    rewriter.substitute(last, made)
    return None


def _function(rewriter: Rewriter, value: Value, reader: Node) -> _Scores | str | None:
    """What is computed from a product on the way to `value`, of which `reader` is a reader.

    None where no product of two computed tensors stands at the beginning.
    """
    node = value.producer
    if node is None:
        return None
    if node.key == "MatMul":
        if any(operand is None or operand.is_constant for operand in node.inputs):
            return None
        if rewriter.only_reader(value) is not reader:
            return "the scores have other readers"
        return _Scores(node)
    if node.domain or value.shape is None:
        return None
    for index, source in enumerate(node.inputs):
        if source is None or source.is_constant or len(source.shape or ()) != len(value.shape):
            continue
        found = _function(rewriter, source, node)
        if found is None:
            continue
        if isinstance(found, str):
            return found
        if source.shape != value.shape:
            return f"{node.label} is not proven to keep the shape of the scores"
        if rewriter.only_reader(value) is not reader:
            return "the scores have other readers"
        expr = from_node(node)
        if isinstance(expr, str):
            return expr
        return _extended(found, node, index, expr)
    return None


def _extended(found: _Scores, node: Node, index: int, expr: Expr) -> _Scores | str:
    """`expr` of `node` applied to scores that are its input `index`."""
    read = {int(part.value or 0): part.dtype for part in expr.inputs}
    replacements = {index: found.expr}
    extras = list(found.extras)
    for place, dtype in read.items():
        if place == index:
            continue
        value = node.inputs[place]
        assert value is not None
        if not any(value is other for other in extras):
            extras.append(value)
        position = next(i for i, other in enumerate(extras) if other is value)
        replacements[place] = Expr.input(1 + position, dtype)
    total = expr.substitute(replacements)
    if len(extras) > _MAX_EXTRAS:
        return f"{len(extras)} tensors take part in the scores"
    if total.operations > _MAX_OPERATIONS:
        return f"{total.operations} operations lie between product and softmax"
    if total.dtype != "float32":
        return f"the scores are {total.dtype}"
    return _Scores(found.product, total, extras)


def _misfit(found: _Scores, keys: Dim, rank: int) -> str | None:
    """Why the kernel cannot read a tensor that takes part in the scores."""
    for value in found.extras:
        if value.shape is None or len(value.shape) > rank:
            return f"the rank of {value.name} does not fit the scores"
        if value.shape and value.shape[-1] not in (keys, _ONE):
            return f"{value.name} has {value.shape[-1]} columns, not proven to be 1 or {keys}"
    return None


def _guard(rewriter: Rewriter, softmax: Node) -> Node | None:
    """``Where(IsNaN(p), 0, p)`` on the probabilities p, where nothing else reads them."""
    probabilities = softmax.outputs[0]
    readers = rewriter.readers(probabilities)
    if len(readers) != 2 or rewriter.is_output(probabilities):
        return None
    for test, where in (readers, readers[::-1]):
        if (
            test.key == "IsNaN"
            and where.key == "Where"
            and where.inputs[0] is test.outputs[0]
            and rewriter.only_reader(test.outputs[0]) is where
            and scalar(where.inputs[1]) == 0
            and where.inputs[2] is probabilities
            and where.outputs[0].shape == probabilities.shape
        ):
            return where
    return None


def _absorb_scale(query: Value, key: Value, expr: Expr) -> tuple[Value, Value, Expr]:
    """Queries and keys before constant factors, which move into the expression."""
    factor = 1.0
    operands = []
    for value in (query, key):
        current = value
        while (found := _scaled(current)) is not None:
            current, share = found
            factor *= share
        operands.append(current)
    if factor != 1.0:
        scaled = Expr.of("mul", _SCORE, Expr.constant(factor, "float32"))
        expr = expr.substitute({0: scaled})
    return operands[0], operands[1], expr


def _scaled(value: Value) -> tuple[Value, float] | None:
    """Operand and factor of a multiplication by a constant that keeps the shape."""
    node = value.producer
    if node is None or node.key not in ("Mul", "Div"):
        return None
    for index in (0, 1) if node.op == "Mul" else (0,):
        operand, number = node.inputs[index], scalar(node.inputs[1 - index])
        if operand is None or number is None or operand.shape != value.shape:
            continue
        share = float(number) if node.op == "Mul" else 1 / float(number) if number else 0.0
        if math.isfinite(share) and share != 0.0:
            return operand, share
    return None


def _result(rewriter: Rewriter, product: Node, rank: int) -> tuple[Node, bool]:
    """The last node of the attention, and whether it moves the heads behind the positions."""
    reader = rewriter.only_reader(product.outputs[0])
    if rank == 4 and reader is not None and permutation(reader) == [0, 2, 1, 3]:
        return reader, True
    return product, False


def standard_attention(graph: Graph) -> PassReport:
    """Turn the operator Attention into ours, in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "Attention":
                reason = _standard_misfit(node)
                if reason:
                    notes.append(f"{node.label}: Attention is taken apart: {reason}")
                else:
                    _convert(rewriter, node)
        changes += rewriter.finish()
    return PassReport("standard_attention", changes, notes)


def _standard_misfit(node: Node) -> str | None:
    given = [value for value in node.inputs if value is not None]
    if len(node.outputs) > 3 and node.outputs[3].name:
        return "its scores are an output"
    if node.input(6) is not None:
        return "it gives the number of valid keys per batch"
    if node.attribute("softmax_precision", 1) != 1:
        return "its softmax has another precision"
    if any(node.attribute(f"{side}_window_size", -1) >= 0 for side in ("left", "right")):
        return "it limits how far a query sees"
    mask = node.input(3)
    floats = [value for value in given if value is not mask]
    if any(value.dtype != np.float32 or value.shape is None for value in floats):
        return "it does not compute in float32, or a rank is unknown"
    key, past = node.inputs[1], node.input(4)
    assert key is not None
    assert key.shape is not None
    total = key.shape[-2]
    if past is not None:
        assert past.shape is not None
        total = total + past.shape[2]
    if mask is not None:
        if mask.dtype not in (np.dtype(np.float32), np.dtype(np.bool_)) or not mask.shape:
            return f"its mask is {mask.dtype}, or of unknown shape"
        if mask.shape[-1] not in (total, _ONE):
            return f"its mask has {mask.shape[-1]} columns, not proven to be {total} keys"
    if node.attribute("scale") is None and not _head_size(node):
        return "its scale follows from the size of a head, which is open or 0"
    return None


def _head_size(node: Node) -> int:
    """Elements of a query of one head, 0 where they are not known."""
    query = node.inputs[0]
    assert query is not None
    assert query.shape is not None
    size = query.shape[-1]
    heads = int(node.attribute("q_num_heads") or 1) if len(query.shape) == 3 else 1
    return size.value // heads if size.is_constant else 0


def _convert(rewriter: Rewriter, node: Node) -> None:
    query, key, values = (
        _by_head(rewriter, node, node.inputs[i], heads)
        for i, heads in enumerate(("q_num_heads", "kv_num_heads", "kv_num_heads"))
    )
    past: Value | None = None
    for place, (recent, name) in enumerate(((key, "key"), (values, "value"))):
        earlier = node.input(4 + place)
        present = node.outputs[1 + place] if len(node.outputs) > 1 + place else None
        if present is None or not present.name:
            present = None
        if earlier is None and present is None:
            continue
        total = present or rewriter.value(f"{node.label}/present_{name}")
        if earlier is None:
            joined = Node("Identity", [recent], [total], version=13)
        else:
            joined = Node("Concat", [earlier, recent], [total], {"axis": 2}, version=13)
        joined.name = f"{node.label}/{name}"
        rewriter.insert(node, joined)
        if place == 0:
            past, key = earlier, total
        else:
            values = total
    inputs: list[Value | None] = [query, key, values]
    attributes: dict[str, Any] = {"guarded": True, "transposed": False, "score": None}
    attributes["score"] = _standard_score(node, inputs)
    if node.attribute("is_causal", 0):
        assert past is None or past.shape is not None
        attributes["causal"] = 1
        attributes["past"] = past is not None
        if past is not None:
            # Its length is read from the shape; nothing depends on its elements.
            inputs.append(past)
    flat = node.inputs[0] is not None and len(node.inputs[0].shape or ()) == 3
    made = Node("Attention", inputs, [], attributes, OURS, _ATTENTION)
    made.name = node.name
    result = node.outputs[0]
    if flat:
        attributes["transposed"] = True
        whole = rewriter.value(f"{node.label}/heads")
        made.outputs = [whole]
        shape = rewriter.constant(f"{node.label}/shape", [0, 0, -1])
        flatten = Node("Reshape", [whole, shape], [result], version=14, name=f"{node.label}/flat")
        rewriter.replace(node, [made, flatten])
    else:
        made.outputs = [result]
        rewriter.replace(node, [made])


def _standard_score(node: Node, inputs: list[Value | None]) -> Expr:
    """Scale, soft cap and mask; appends the mask to the inputs."""
    scale = node.attribute("scale")
    if scale is None:
        scale = 1 / math.sqrt(_head_size(node))
    expr = Expr.of("mul", _SCORE, Expr.constant(float(scale), "float32"))
    cap = float(node.attribute("softcap", 0.0))
    if cap > 0.0:
        inside = Expr.of("mul", expr, Expr.constant(1 / cap, "float32"))
        expr = Expr.of("mul", Expr.of("tanh", inside), Expr.constant(cap, "float32"))
    mask = node.input(3)
    if mask is None:
        return expr
    inputs.append(mask)
    if mask.dtype == np.bool_:
        hidden = Expr.constant(-math.inf, "float32")
        return Expr.of("select", Expr.input(1, "bool"), expr, hidden)
    return Expr.of("add", expr, Expr.input(1, "float32"))


def _by_head(rewriter: Rewriter, node: Node, value: Value | None, heads: str) -> Value:
    """[batch, heads, length, size] of an input, which may be [batch, length, heads * size]."""
    assert value is not None
    if len(value.shape or ()) == 4:
        return value
    count = int(node.attribute(heads))
    split = rewriter.value(f"{node.label}/split")
    shape = rewriter.constant(f"{node.label}/shape", [0, 0, count, -1])
    turned = rewriter.value(f"{node.label}/heads")
    rewriter.insert(node, Node("Reshape", [value, shape], [split], version=14, name=split.name))
    axes = {"perm": [0, 2, 1, 3]}
    rewriter.insert(node, Node("Transpose", [split], [turned], axes, version=13, name=turned.name))
    return turned
