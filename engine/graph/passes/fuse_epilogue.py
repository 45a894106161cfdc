"""Element-wise operators after a product join it as its epilogue.

For a product ``p`` with epilogue e and an element-wise operator ``y = f(.., e(p, ..), ..)`` that is
the only reader of ``e(p, ..)``, ``y = (f ∘ e)(p, ..)``: computed on the accumulators in registers,
before the only store. Bias, activation, scale and residual addition all are of this form.

Products are ``packhorse.Conv``, MatMul and Gemm; the latter two become ``packhorse.MatMul``. The
other inputs of f must be constants of one element, vectors along the last axis (``column``) or
tensors of the product's own shape (``tile``). The fused node stands in the place of f, where all
inputs are computed.
"""

from __future__ import annotations

import numpy as np

from engine.codegen.expression import Expr
from engine.codegen.onnx_expression import ELEMENTWISE_OPERATORS, from_node
from engine.graph.dims import Dim
from engine.graph.ir import OURS, Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

_ONE = Dim.of(1)
_MAX_EXTRAS = 4
_MAX_OPERATIONS = 32


def fuse_epilogue(graph: Graph) -> PassReport:
    """Fuse in the graph and its subgraphs, until nothing more joins."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        while True:
            notes.clear()
            made = _gemms(inner, names) + _fuse(inner, names, notes)
            changes += made
            if not made:
                break
    return PassReport("fuse_epilogue", changes, notes)


def _gemms(graph: Graph, names: Names) -> int:
    """``Gemm(A, B, C)`` with constant B and vector C is ``A @ B' + C'``."""
    rewriter = Rewriter(graph, names)
    for node in rewriter.nodes():
        if node.key == "Gemm":
            made = _from_gemm(rewriter, node)
            if made is not None:
                rewriter.substitute(node, made)
    return rewriter.finish()


def _from_gemm(rewriter: Rewriter, node: Node) -> Node | None:
    a, b, c = node.inputs[0], node.inputs[1], node.input(2)
    if b is None or b.data is None or b.dtype != np.float32 or node.attribute("transA", 0):
        return None
    matrix = b.data.T if node.attribute("transB", 0) else b.data
    matrix = matrix * np.float32(node.attribute("alpha", 1.0))
    inputs: list[Value | None] = [a, rewriter.constant(f"{b.name}.matrix", matrix)]
    attributes: dict[str, object] = {"epilogue": None, "access": []}
    if c is not None:
        if c.data is None or c.data.size not in (1, matrix.shape[1]):
            return None
        bias = np.broadcast_to(c.data.reshape(-1), (matrix.shape[1],))
        bias = np.ascontiguousarray(bias * np.float32(node.attribute("beta", 1.0)))
        inputs.append(rewriter.constant(f"{c.name}.bias", bias))
        total = Expr.of("add", Expr.input(0, "float32"), Expr.input(1, "float32"))
        attributes = {"epilogue": total, "access": ["column"]}
    return Node("MatMul", inputs, [], attributes, OURS, 1)


def _fuse(graph: Graph, names: Names, notes: list[str]) -> int:
    rewriter = Rewriter(graph, names)
    for node in rewriter.nodes():
        expr = _expression(node)
        if expr is None:
            continue
        for index, value in enumerate(node.inputs):
            product = None if value is None else value.producer
            if product is None or not _is_product(product):
                continue
            assert value is not None
            if product not in graph.nodes or rewriter.only_reader(value) is not node:
                continue
            if sum(v is value for v in node.inputs) > 1:
                continue
            made = _join(product, node, index, expr)
            if isinstance(made, str):
                notes.append(f"{node.label} stays apart from {product.label}: {made}")
                continue
            rewriter.substitute(node, made)
            rewriter.remove(product)
            break
    return rewriter.finish()


def _expression(node: Node) -> Expr | None:
    if node.key == "packhorse.Elementwise":
        found: Expr = node.attribute("expression")
        return found
    if node.key not in ELEMENTWISE_OPERATORS or node.outputs[0].dims is not None:
        return None
    expr = from_node(node)
    return expr if isinstance(expr, Expr) else None


def _is_product(node: Node) -> bool:
    if node.key in ("packhorse.Conv", "packhorse.ConvTranspose", "packhorse.MatMul"):
        return True
    return node.key == "MatMul" and node.outputs[0].dtype == np.float32


def _join(product: Node, node: Node, index: int, expr: Expr) -> Node | str:
    """The product with `expr` of `node` after its epilogue, or the reason against it."""
    output, source = node.outputs[0], product.outputs[0]
    if expr.dtype != "float32" or output.dtype != np.float32:
        return f"its result is {expr.dtype}"
    if output.shape is None or output.shape != source.shape:
        return "its result has another shape than the product"
    before: Expr | None = product.attribute("epilogue")
    inputs = list(product.inputs)
    access = list(product.attribute("access", []))
    replacements = {index: before or Expr.input(0, "float32")}
    for i, value in enumerate(node.inputs):
        if i == index or value is None or not _is_read(expr, i):
            continue
        kind = _access(value, output, product)
        if kind is None:
            return f"its input {value.name} is neither per column nor of the product's shape"
        inputs.append(_flat(value) if kind == "column" else value)
        access.append(kind)
        replacements[i] = Expr.input(len(access), "float32")
    if len(access) > _MAX_EXTRAS:
        return f"the epilogue would read {len(access)} inputs"
    total = expr.substitute(replacements)
    if total.operations > _MAX_OPERATIONS:
        return f"the epilogue would take {total.operations} operations"
    attributes = dict(product.attributes, epilogue=total, access=access)
    return Node(product.op, inputs, [], attributes, OURS, product.version, product.name)


def _is_read(expr: Expr, index: int) -> bool:
    return any(node.value == index for node in expr.inputs)


def _flat(value: Value) -> Value:
    """A constant column vector under its plain shape."""
    if value.data is None or value.data.ndim == 1:
        return value
    data = value.data.reshape(-1)
    return Value(value.name, value.dtype, (Dim.of(data.size),), data)


def _access(value: Value, output: Value, product: Node) -> str | None:
    if value.dtype != np.float32 or value.shape is None or output.shape is None:
        return None
    if all(dim == _ONE for dim in value.shape):
        return "scalar"
    vector = value.shape[-1] == output.shape[-1] and all(d == _ONE for d in value.shape[:-1])
    if vector and (value.data is not None or len(value.shape) == 1):
        return "column"
    weight = product.inputs[1]
    if value.shape == output.shape and weight is not None and weight.data is not None:
        return "tile"
    return None
