"""Lowering of Loop: its body stands in the program once, and a jump leads back to its beginning.

Carried values have memory of their own, written before the loop and at the end of every iteration;
the stacked outputs are written row by row. This needs shapes that are the same in every iteration,
and for stacked outputs a number of iterations that is known when the program is bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, ceildiv, maximum, minimum
from engine.graph.ir import Graph, Node, Value
from engine.kernels import jumps
from engine.plan.lower.branch import emit_body
from engine.plan.lower.copies import emit_copy
from engine.plan.lower.known import known_dims
from engine.plan.lower.operands import checked, shape_of
from engine.plan.lowering import Label, Lowering, NoKernel, check_symbols, lowers
from engine.plan.tensor import ONE, ZERO, Tensor

EXPECTED: Final = Dim.of(16)
"""Iterations that are expected of a loop whose number is not known when it is bound."""


@lowers("Loop")
def lower_loop(node: Node, low: Lowering) -> None:
    """Initial values, the jump that enters, the body, the rows, and the jump that repeats."""
    checked(node)
    body: Graph = node.attribute("body")
    initial = node.inputs[2:]
    carried = len(initial)
    formal, final = body.inputs[2:], body.outputs[1 : 1 + carried]
    for before, start, after in zip(formal, initial, final, strict=True):
        _check_carried(before, start, after)
    check_symbols(node, low.symbols)
    trips = known_dims(node.input(0))
    rows = _rows(node, body, trips, low)
    counter = low.temp(np.int64, (), "iteration")
    states = [_copied(low, low.read(value)) for value in initial]
    below, behind = Label(), Label()
    loop = _Loop(low, counter, _limit(node, low, trips))
    first = node.input(1)
    loop.jump(jumps.ENTER.name, None if _is_true(first) else low.read(first), behind)
    with low.apart(EXPECTED if trips is None else maximum(trips[0], ZERO)):
        low.mark(below)
        low.tensors[id(body.inputs[0])] = counter
        low.tensors[id(body.inputs[1])] = low.constant(np.array(True), "running")
        for value, state in zip(formal, states, strict=True):
            low.tensors[id(value)] = state
        emit_body(body, low)
        low.node = node
        for value, result in rows:
            _store_row(low, low.read_dense(value), result, counter)
        going = None
        if not _is_true(body.outputs[0]) and body.outputs[0] is not body.inputs[1]:
            going = low.read(body.outputs[0])
            if _is_state(going, states):
                going = _copied(low, going)
        _carry(low, [low.read(value) for value in final], states)
        loop.jump(jumps.REPEAT.name, going, below)
    low.mark(behind)
    for value, state in zip(node.outputs, states, strict=False):
        if value.name:
            low.alias(value, state)


class _Loop:
    """The two jumps of a loop; they agree on where the number of iterations stands."""

    def __init__(self, low: Lowering, counter: Tensor, limit: Tensor | Dim | None) -> None:
        self.low = low
        self.counter = counter
        self.limit = limit

    def jump(self, family: str, condition: Tensor | None, target: Label) -> None:
        kind = "tensor" if isinstance(self.limit, Tensor) else "size"
        limit = None if self.limit is None else kind
        arguments: dict[str, Tensor | Dim] = {} if self.limit is None else {"trips": self.limit}
        if condition is not None:
            arguments["condition"] = condition
        spec = KernelSpec.of(family, limit=limit, condition=condition is not None)
        arguments |= {"counter": self.counter, "active": self.low.when}
        self.low.jump(spec, target, "counter", **arguments)


def _check_carried(before: Value, start: Value | None, after: Value) -> None:
    if start is None:
        raise NoKernel("a carried value has no initial value")
    shapes = {shape_of(value) for value in (before, start, after)}
    if len(shapes) > 1 or before.dtype != start.dtype or before.dtype != after.dtype:
        raise NoKernel(f"{before.name} changes its shape from iteration to iteration")


def _rows(
    node: Node, body: Graph, trips: tuple[Dim, ...] | None, low: Lowering
) -> list[tuple[Value, Tensor]]:
    """The value of every stacked output that is wanted, and the memory for all its rows."""
    carried = len(node.inputs[2:])
    found = []
    for value, output in zip(body.outputs[1 + carried :], node.outputs[carried:], strict=False):
        if not output.name:
            continue
        if trips is None or shape_of(output) != (maximum(trips[0], ZERO), *shape_of(value)):
            raise NoKernel("the number of its iterations is known only after the run")
        found.append((value, low.write(output)))
    return found


def _limit(node: Node, low: Lowering, trips: tuple[Dim, ...] | None) -> Tensor | Dim | None:
    if trips is not None:
        return trips[0]
    return None if node.input(0) is None else low.read(node.input(0))


def _is_true(value: Value | None) -> bool:
    """Whether a condition is omitted or known to hold."""
    if value is None:
        return True
    known = known_dims(value)
    return known is not None and known[0] == ONE


def _store_row(low: Lowering, row: Tensor, result: Tensor, counter: Tensor) -> None:
    size = row.size * row.itemsize
    low.call(
        KernelSpec.of(jumps.STORE_ROW.name),
        items=ceildiv(size, jumps.CHUNK_BYTES),
        cost=minimum(size, jumps.CHUNK_BYTES) // 8 + 5,
        writes="y",
        x=row,
        y=result,
        counter=counter,
        row_bytes=size,
    )


def _copied(low: Lowering, tensor: Tensor) -> Tensor:
    target = low.temp(tensor.dtype, tensor.shape, "carried")
    emit_copy(low, tensor, target)
    return target


def _is_state(tensor: Tensor, states: Sequence[Tensor]) -> bool:
    return any(tensor.buffer is state.buffer for state in states)


def _carry(low: Lowering, results: Sequence[Tensor], states: Sequence[Tensor]) -> None:
    """Copy the results of an iteration to where the next one reads them."""
    pairs = []
    for result, state in zip(results, states, strict=True):
        same = result.buffer is state.buffer and result.strides == state.strides
        if same and result.offset == state.offset:
            continue
        # Another state is about to be overwritten itself.
        pairs.append((_copied(low, result) if _is_state(result, states) else result, state))
    for result, state in pairs:
        emit_copy(low, result, state)
