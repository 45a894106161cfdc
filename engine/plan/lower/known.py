"""Values that planning knows as dims, written to memory only where something reads them there.

Exporters compute shapes with operators. Inference turns them into dims, so the nodes themselves
have nothing left to do; `lower_known` is the lowering of each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, maximum, minimum
from engine.graph.ir import Node, Value
from engine.kernels import words
from engine.plan.tensor import ZERO, Tensor

if TYPE_CHECKING:
    from engine.plan.lowering import Lowering


def known_dims(value: Value | None) -> tuple[Dim, ...] | None:
    """Elements of an integer value that is constant or known as dims, row-major; else None."""
    if value is None:
        return None
    if value.data is not None:
        if value.data.dtype.kind not in "iub":
            return None
        return tuple(Dim.of(int(element)) for element in value.data.reshape(-1))
    return value.dims


def sign(dim: Dim) -> int | None:
    """1 where `dim` is proven to be >= 0, -1 where it is proven to be < 0, None otherwise."""
    if dim.at_least(0):
        return 1
    return -1 if (-dim).at_least(1) else None


def clamp(dim: Dim, low: Dim, high: Dim) -> Dim:
    """`dim` limited to [low, high]."""
    return minimum(maximum(dim, low), high)


def emit_words(low: Lowering, dims: tuple[Dim, ...], target: Tensor) -> None:
    """Write `dims` to the contiguous `target` of rank 0 or 1."""
    flat = target.view((Dim.of(len(dims)),))
    for start in range(0, len(dims), words.MOST):
        part = dims[start : start + words.MOST]
        padded = part + (ZERO,) * (words.MOST - len(part))
        low.call(
            KernelSpec.of(words.WORDS.name, itemsize=target.itemsize),
            items=1,
            cost=len(part),
            writes="y",
            y=flat.window(0, Dim.of(start), Dim.of(len(part))),
            count=len(part),
            **{f"w{position}": dim for position, dim in enumerate(padded)},
        )


def known_tensor(low: Lowering, value: Value) -> Tensor:
    """Tensor of a value with known dims."""
    assert value.dims is not None
    assert value.shape is not None
    assert value.dtype is not None
    shape = (Dim.of(len(value.dims)),) if value.shape else ()
    target = low.temp(value.dtype, shape, value.name)
    emit_words(low, value.dims, target)
    return target


def is_known(node: Node) -> bool:
    """Whether all that a node computes is known as dims."""
    return bool(node.outputs) and all(
        value.dims is not None
        and value.shape is not None
        and value.dtype is not None
        and value.dtype.kind in "iub"
        for value in node.outputs
    )


def lower_known(node: Node, low: Lowering) -> None:
    """Write outputs that have a place already; `Lowering.read` writes others when they are read."""
    for value in node.outputs:
        target = low.tensors.get(id(value))
        if target is not None and value.dims is not None:
            emit_words(low, value.dims, target)
