"""Lowering of ArgMax, ArgMin and TopK."""

from __future__ import annotations

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import ceildiv
from engine.graph.ir import Node
from engine.kernels import selection
from engine.plan.lower.operands import axis_of, checked, integers, shape_of
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, product


def _checked_type(node: Node) -> str:
    checked(node)
    value = node.inputs[0]
    assert value is not None
    if not shape_of(value):
        raise NoKernel(f"{node.op} of a scalar")
    if str(value.dtype) not in selection.DTYPES:
        raise NoKernel(f"{node.op} of {value.dtype}")
    return str(value.dtype)


@lowers("ArgMax", "ArgMin")
def lower_arg(node: Node, low: Lowering) -> None:
    """Index of the largest or smallest element along an axis."""
    dtype = _checked_type(node)
    source, result = low.read_dense(node.inputs[0]), low.write(node.outputs[0])
    axis = axis_of(node, source.rank)
    outer, inner = product(source.shape[:axis]), product(source.shape[axis + 1 :])
    length = source.shape[axis]
    lanes = selection.arg_lanes(low.target, dtype)
    blocks = ceildiv(inner, lanes)
    low.call(
        KernelSpec.of(
            selection.ARG.name,
            dtype=dtype,
            largest=node.op == "ArgMax",
            last=bool(node.attribute("select_last_index", 0)),
        ),
        items=outer * blocks,
        cost=length // (lanes if inner == ONE else 1) + 5,
        writes="y",
        x=source,
        y=result,
        outer=outer,
        length=length,
        inner=inner,
        blocks=blocks,
    )


@lowers("TopK")
def lower_topk(node: Node, low: Lowering) -> None:
    """The k largest or smallest elements in order; so they are also where no order is asked for."""
    dtype = _checked_type(node)
    known = integers(node, 1, "k")
    if known is None:
        raise NoKernel("k is omitted")
    kept = known[0]
    source = low.read_dense(node.inputs[0])
    values, indices = (
        low.write(value) if value.name else low.temp(value.dtype, shape_of(value), "unused")
        for value in node.outputs
    )
    axis = axis_of(node, source.rank, -1)
    outer, inner = product(source.shape[:axis]), product(source.shape[axis + 1 :])
    low.call(
        KernelSpec.of(selection.TOPK.name, dtype=dtype, largest=bool(node.attribute("largest", 1))),
        items=outer * inner,
        cost=source.shape[axis] + kept * 20,
        scratch=kept * selection.ENTRY_BYTES,
        writes="values indices",
        x=source,
        values=values,
        indices=indices,
        outer=outer,
        length=source.shape[axis],
        inner=inner,
        k=kept,
    )
