"""Rules of matrix products and contractions."""

from __future__ import annotations

from engine.graph.dims import Dim
from engine.graph.inference.context import Inference, Shape
from engine.graph.inference.registry import rule


def matmul_shape(node: Inference, left: Shape, right: Shape) -> Shape:
    """Shape of ``numpy.matmul``; the inner dims must be equal."""
    if not left or not right:
        node.error("a matrix product needs inputs of rank >= 1")
    inner = "the inner axes of the matrix product"
    node.require_equal(left[-1], right[-2] if len(right) > 1 else right[-1], inner)
    batch = node.broadcast([left[:-2], right[:-2]], "batch axes")
    rows = left[-2:-1] if len(left) > 1 else ()
    columns = right[-1:] if len(right) > 1 else ()
    return (*batch, *rows, *columns)


@rule("MatMul", "MatMulInteger")
def _matmul(node: Inference) -> None:
    node.output(0, matmul_shape(node, node.shape(0), node.shape(1)))


@rule("QLinearMatMul")
def _quantised_matmul(node: Inference) -> None:
    node.output(0, matmul_shape(node, node.shape(0), node.shape(3)))


@rule("Gemm")
def _gemm(node: Inference) -> None:
    node.rank(0, 2)
    node.rank(1, 2)
    left, right = node.shape(0), node.shape(1)
    if node.attribute("transA", 0):
        left = left[::-1]
    if node.attribute("transB", 0):
        right = right[::-1]
    node.require_equal(left[1], right[0], "the inner axes of A and B")
    result = (left[0], right[1])
    if node.has(2) and node.value(2).shape is not None:
        addend = node.shape(2)
        if len(addend) > 2:
            node.error(f"C has rank {len(addend)}, not at most 2")
        for axis, (dim, size) in enumerate(zip(addend[::-1], result[::-1], strict=False), 1):
            if dim != 1:
                joint = node.broadcast([(size,), (dim,)], f"C and A*B at axis -{axis}")[0]
                node.require_equal(joint, size, f"C and A*B at axis -{axis}")
    node.output(0, result)


@rule("Einsum")
def _einsum(node: Inference) -> None:
    equation = node.attribute("equation").replace(" ", "")
    inputs, arrow, result = equation.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(node.node.inputs):
        node.error(f"equation {equation!r} names {len(terms)} inputs, not {len(node.node.inputs)}")
    sizes: dict[str, Dim] = {}
    ellipses: list[Shape] = []
    for index, term in enumerate(terms):
        shape = node.shape(index)
        before, dots, after = term.partition("...")
        named = len(before) + len(after)
        if named > len(shape) or (named < len(shape) and not dots):
            node.error(f"equation {equation!r} does not fit input {index} of rank {len(shape)}")
        if dots:
            ellipses.append(shape[len(before) : len(shape) - len(after)])
        pairs = [*zip(before, shape, strict=False)]
        pairs += zip(after, shape[len(shape) - len(after) :], strict=True)
        for letter, dim in pairs:
            known = sizes.get(letter, dim)
            if known is not dim:
                known = node.broadcast([(known,), (dim,)], f"the axes {letter!r}")[0]
            sizes[letter] = known
    if not arrow:
        letters = inputs.replace(".", "").replace(",", "")
        once = sorted(letter for letter in sizes if letters.count(letter) == 1)
        result = ("..." if ellipses else "") + "".join(once)
    before, dots, after = result.partition("...")
    unknown = sorted(set(before + after) - sizes.keys())
    if unknown:
        node.error(f"equation {equation!r} has outputs {unknown} that no input names")
    middle = node.broadcast(ellipses, "the axes of '...'") if dots else ()
    node.output(0, (*(sizes[c] for c in before), *middle, *(sizes[c] for c in after)))


@rule("Det")
def _determinant(node: Inference) -> None:
    shape = node.shape(0)
    if len(shape) < 2:
        node.error(f"input has rank {len(shape)}, not at least 2")
    node.require_equal(shape[-2], shape[-1], "the two last axes of the input")
    node.output(0, shape[:-2])
