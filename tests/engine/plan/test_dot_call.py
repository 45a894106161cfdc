"""The schedule of a dot call."""

from __future__ import annotations

import numpy as np
import pytest

from engine.codegen.target import available, select
from engine.graph.dims import Dim
from engine.graph.ir import Node
from engine.plan.dot_call import Axes, Depth, DotCall, emit_dot, flat_depth
from engine.plan.lowering import Call, Lowering
from engine.plan.tensor import ONE, ZERO, Buffer, Space, Tensor, row_major
from engine.runtime.gang import SCRATCH

VECTORS = 2


def emitted(rows: int, columns: int, depth: Depth) -> Call:
    """The call of a product that is only planned, never run."""
    low = Lowering(select(available()[-1]), node=Node("MatMul", [], []))
    width = VECTORS * low.target.lanes()

    def tensor(*shape: int) -> Tensor:
        dims = tuple(Dim.of(n) for n in shape)
        return Tensor(np.dtype(np.float32), dims, row_major(dims), Buffer(Space.ARENA, 0, ONE, "t"))

    size = depth.size.value
    a, c = tensor(rows, size), tensor(rows, columns)
    call = DotCall(
        a=Axes(a, a.strides[:1], ()),
        b=tensor(-(-columns // width), size, width),
        c=Axes(c, c.strides[:1], ()),
        rows=c.shape[:1],
        batch=(),
        b_batch=(),
        columns=Dim.of(columns),
        depth=depth,
        vectors=VECTORS,
    )
    emit_dot(low, call)
    return low.calls[-1]


def window(rows: int, columns: int) -> Depth:
    return Depth(Dim.of(rows), ONE, Dim.of(columns), Dim.of(columns), Dim.of(5 * columns), ZERO)


@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [
        (1000, 1_000_000, flat_depth(Dim.of(5000))),
        (1000, 64, window(3, 100_000)),
        (1000, 1_000_000, window(3, 100_000)),
        (1, 768, flat_depth(Dim.of(768))),
    ],
)
def test_items_fit_the_scratch(rows: int, columns: int, depth: Depth) -> None:
    call = emitted(rows, columns, depth)
    assert call.scratch.value <= SCRATCH


def word(call: Call, name: str) -> int:
    value = call.arguments[name]
    assert isinstance(value, Dim)
    return value.value


def test_rows_are_copied_where_they_are_uneven_or_collide_in_the_cache() -> None:
    assert word(emitted(64, 768, flat_depth(Dim.of(768))), "copied") == 0
    assert word(emitted(64, 768, flat_depth(Dim.of(3072))), "copied") == 1
    assert word(emitted(64, 768, window(3, 96)), "copied") == 1
    assert word(emitted(64, 32, window(3, 96)), "copied") == 0
