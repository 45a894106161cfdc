"""Time per operation of a model, one operation after the other on one thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.direct import Direct
from engine.roofline import Roofline, measure
from engine.runtime.gang import Spare
from engine.runtime.layout import Op, Program
from engine.runtime.layout import Spare as SpareLayout
from engine.runtime.memory import address
from engine.session import Session
from engine.work import operations


@dataclass(frozen=True)
class OperationTime:
    """One kernel call: node, operator, kernel family, work items, least seconds of all rounds.

    In a loop the seconds are those of all iterations, and `times` is how many there were.
    `operations` are its floating-point operations as `engine.work` counts them, `traffic` the bytes
    of the tensors that it reads and writes.
    """

    node: str
    op: str
    kernel: str
    items: int
    seconds: float
    operations: int = 0
    traffic: int = 0
    times: int = 1


@dataclass(frozen=True)
class Memory:
    """Bytes: weights as packed, the arena that activations share, and what they would take if
    none shared; inputs and outputs lie in arrays of the caller's."""

    weights: int
    arena: int
    unshared: int


def profile(session: Session, inputs: Mapping[str, Any], rounds: int = 10) -> list[OperationTime]:
    """Time every kernel call of a model that is one native segment.

    Each round runs the whole program, so caches are as in use. Raises ValueError where the model
    has fallback segments.
    """
    direct = _direct(session)
    runner = direct.runner
    arrays, sizes = session._state.arguments.accept(inputs)
    ready = runner.bind(sizes)
    bound = ready.bound
    given = [runner.base, *direct.reads(arrays), *runner.new_outputs(ready)]
    spare = Spare()
    spare.grow(bound.arena, len(given))
    operation = bound.memory[: Program.BODY // 8].copy()
    operation[Program.COUNT // 8] = 1
    best = [float("inf")] * bound.count
    times = [0] * bound.count
    start = address(bound.operations)
    inline = session._gang.native.inline
    for _ in range(rounds):
        seconds, times = [0.0] * bound.count, [0] * bound.count
        index = 0
        while index < bound.count:
            operation[Program.OPS // 8] = start + index * Op.SIZE
            before = time.thread_time()
            status = inline(operation, spare.memory, *given)
            seconds[index] += time.thread_time() - before
            times[index] += 1
            runner.check(status and status + (index << 8))
            index = int(spare.memory[SpareLayout.FRONTIER // 8]) or index + 1
        best = [min(pair) for pair in zip(best, seconds, strict=True)]
    table = bound.operations.reshape(bound.count, Op.WORDS)
    program = runner.program
    parameters, starts = bound.parameters.tolist(), (program.starts // 8).tolist()
    found = []
    touched = program.touched(sizes)
    for index, step in enumerate(program.steps):
        items = int(table[index, Op.RANGE // 8])
        done = operations(step.spec, parameters[starts[index] :], items)
        found.append(
            OperationTime(
                step.label,
                step.op,
                step.spec.family,
                items,
                best[index],
                done * times[index],
                touched[index] * times[index] if items else 0,
                times[index],
            )
        )
    return found


def memory(session: Session, inputs: Mapping[str, Any]) -> Memory:
    """What a model takes at the shapes of `inputs`. Raises ValueError as `profile`."""
    direct = _direct(session)
    _, sizes = session._state.arguments.accept(inputs)
    program = direct.runner.program
    bound = program.bind(sizes, session._gang.threads)
    return Memory(session._state.weights.size, bound.arena, sum(program.buffers()))


def roofline(session: Session) -> Roofline:
    """Limits of one core under the session's instruction set."""
    return measure(session._pool.compiler)


def trace(times: Sequence[OperationTime]) -> dict[str, Any]:
    """One run as a trace that Perfetto and Chrome open: the calls in order, on one thread.

    The format is Google's Trace Event Format (complete events, microseconds).
    """
    events: list[dict[str, Any]] = []
    clock = 0.0
    for each in times:
        if each.items and each.times:
            details = {
                "operator": each.op,
                "items": each.items,
                "GFLOP/s": round(each.operations / each.seconds / 1e9, 2),
                "GB/s": round(each.traffic / each.seconds / 1e9, 2),
            }
            duration = each.seconds * 1e6
            event = {"name": each.node, "cat": each.kernel, "ph": "X", "ts": clock}
            events.append(event | {"dur": duration, "pid": 1, "tid": 1, "args": details})
            clock += duration
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _direct(session: Session) -> Direct:
    direct = session._state.direct
    if direct is None:
        raise ValueError(f"{session.name} is not one native segment; see explain()")
    return direct
