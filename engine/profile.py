"""Time per operation of a model, one operation after the other on one thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.runtime.layout import Job as JobLayout
from engine.runtime.layout import Op
from engine.runtime.memory import Block, address
from engine.session import Session


@dataclass(frozen=True)
class OperationTime:
    """One kernel call: node, operator, kernel family, work items, least seconds of all rounds."""

    node: str
    op: str
    kernel: str
    items: int
    seconds: float


def profile(session: Session, inputs: Mapping[str, Any], rounds: int = 10) -> list[OperationTime]:
    """Time every kernel call of a model that is one native segment.

    Each round runs the whole program, so caches are as in use. Raises ValueError where the model
    has fallback segments.
    """
    direct = session._state.direct
    if direct is None:
        raise ValueError(f"{session.name} is not one native segment; see explain()")
    runner = direct.runner
    arrays, sizes = session._state.arguments.accept(inputs)
    ready = runner.bind(sizes)
    job, results = runner.prepare(ready, direct.reads(arrays))
    bound = ready.bound
    block, scratch = Block(bound.arena), Block(64 << 20, huge=False)
    job.bases[0] = block.address
    best = [float("inf")] * bound.count
    start = address(bound.operations)
    inline = session._gang.native.inline
    job.words[JobLayout.COUNT // 8] = 1
    for _ in range(rounds):
        for index in range(bound.count):
            job.words[JobLayout.OPS // 8] = start + index * Op.SIZE
            before = time.thread_time()
            status = inline(job.address, scratch.address)
            best[index] = min(best[index], time.thread_time() - before)
            runner.check(status)
    table = bound.operations.reshape(bound.count, Op.WORDS)
    del results
    return [
        OperationTime(
            step.label,
            step.op,
            step.spec.family,
            int(table[index, Op.RANGE // 8]),
            best[index],
        )
        for index, step in enumerate(runner.program.steps)
    ]
