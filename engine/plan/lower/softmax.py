"""Lowering of Softmax and LogSoftmax, both before and since operator set 13."""

from __future__ import annotations

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv
from engine.graph.ir import Node
from engine.kernels.softmax import NARROW, strip_width
from engine.plan.lowering import Lowering, NoKernel, lowers
from engine.plan.tensor import ONE, product


@lowers("Softmax", "LogSoftmax")
def lower_softmax(node: Node, low: Lowering) -> None:
    """Before operator set 13 all axes from `axis` on form one row, since then `axis` alone."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        raise NoKernel("the rank of the input is not known")
    if str(value.dtype) not in ("float32", "float64"):
        raise NoKernel(f"{node.op} of {value.dtype}; exponentials are those of floats")
    flat = node.version < 13
    axis = int(node.attribute("axis", 1 if flat else -1))
    rank = value.rank
    axis += rank if axis < 0 else 0
    if rank == 0:
        outer, length, inner = ONE, ONE, ONE
    elif flat:
        outer, length, inner = product(value.shape[:axis]), product(value.shape[axis:]), ONE
    else:
        outer, length = product(value.shape[:axis]), value.shape[axis]
        inner = product(value.shape[axis + 1 :])
    emit_softmax(low, node, outer, length, inner)


def emit_softmax(low: Lowering, node: Node, outer: Dim, length: Dim, inner: Dim) -> None:
    """Emit softmax along the middle of [outer, length, inner]."""
    x, y = low.read_dense(node.inputs[0]), low.write(node.outputs[0])
    log = node.op == "LogSoftmax"
    lanes, dtype = low.target.lanes(x.itemsize), str(x.dtype)
    # An exponential takes some 6 ns per vector, the two other passes together 2.
    is_narrow = length.is_constant and 1 < length.value <= NARROW
    if inner == ONE and is_narrow and dtype == "float32":
        width = strip_width(low.target)
        spec = KernelSpec.of("softmax", pattern="narrow", log=log, length=length.value)
        effort = width // lanes * length.value * 10 + 20
        items = ceildiv(outer, width)
        low.call(spec, items=items, cost=effort, writes="y", x=x, y=y, rows=outer)
        return
    if inner == ONE:
        spec = KernelSpec.of("softmax", pattern="rows", log=log, dtype=dtype)
        cost = length * 8 // lanes + 20
        low.call(spec, items=outer, cost=cost, writes="y", x=x, y=y, length=length)
        return
    spec = KernelSpec.of("softmax", pattern="columns", log=log, dtype=dtype)
    width = strip_width(low.target, x.itemsize)
    low.call(
        spec,
        items=outer * ceildiv(inner, width),
        cost=length * (8 * width // lanes) + 20,
        writes="y",
        x=x,
        y=y,
        length=length,
        inner=inner,
    )
