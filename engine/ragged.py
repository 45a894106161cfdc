"""Ragged runs: sequences of different lengths share one run of a model, without padding.

Binding such a run takes a fraction of a millisecond and its lengths hardly ever come again, so
nothing is kept but memory to bind into: a few slots, each as large as the largest run that it
served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.errors import InputError
from engine.graph.dims import DimError
from engine.plan.ragged import RaggedBound, RaggedProgram, Words
from engine.runner import Runner
from engine.runtime.gang import Job
from engine.runtime.layout import Job as JobLayout
from engine.runtime.layout import Op
from engine.runtime.memory import address

Array = np.ndarray[Any, Any]

_SLOTS: Final = 4
"""Slots that are kept: more runs at once bind into memory of their own."""


@dataclass(frozen=True)
class Sequences:
    """One request: the arrays of the program's inputs in order, its rows and their length."""

    arrays: Sequence[Array]
    rows: int
    length: int


class _Slot:
    """Memory of one run, and the job that refers to it."""

    def __init__(self, memory: tuple[Words, Words], bases: int, threads: int) -> None:
        self.memory = memory
        self.room = len(memory[0]) // Op.WORDS
        self.job = Job(memory[0], self.room, memory[1], bases, threads)


class Ragged:
    """A native segment that runs sequences of different lengths together."""

    def __init__(self, program: RaggedProgram, runner: Runner) -> None:
        self.program = program
        self.runner = runner
        self.binds = 0
        self._dtypes = [np.dtype(value.dtype) for value in runner.program.outputs]
        self._bases = 3 + len(runner.program.inputs) + len(self._dtypes)
        self._slots: list[_Slot] = []

    def run(self, requests: Sequence[Sequences]) -> list[list[Array]]:
        """The program's outputs for every request, views of arrays that all of them share.

        Every request has at least one row. Raises InputError where a length does not fit the
        model, RunError where the model fails.
        """
        order = sorted(range(len(requests)), key=lambda number: -requests[number].length)
        results = self._run([requests[number] for number in order])
        found = dict(zip(order, results, strict=True))
        return [found[number] for number in range(len(requests))]

    def _run(self, requests: Sequence[Sequences]) -> list[list[Array]]:
        """As `run`, for requests in the order of falling length."""
        runner, gang = self.runner, self.runner.gang
        lengths = [request.length for request in requests for _ in range(request.rows)]
        inputs = [_joined(arrays) for arrays in zip(*(r.arrays for r in requests), strict=True)]
        slot = self._idle_slot()
        bound = self._bind(lengths, None if slot is None else slot.memory)
        ends = bound.starts[-1].tolist()
        runner.admit(bound.arena + sum(ends))
        if slot is None or bound.memory is not slot.memory:
            slot = _Slot(bound.memory, self._bases, gang.threads)
        try:
            outputs = [
                np.empty(end // dtype.itemsize, dtype)
                for end, dtype in zip(ends, self._dtypes, strict=True)
            ]
        except MemoryError as error:
            raise runner.no_room(error) from None
        job = slot.job
        job.words[JobLayout.COUNT // 8] = bound.count
        arrays = [runner.base, *inputs, bound.memory[1][bound.table :], *outputs]
        if bound.inline:
            status = gang.run_inline(job.memory, bound.arena, arrays)
        else:
            for place, array in enumerate(arrays, 1):
                job.bases[place] = address(array)
            # The name keeps the arena mapped until the job is over.
            arena = gang.arena(bound.arena)
            job.bases[0] = arena.address
            runner.submitted(job)
            status = gang.run(job)
        if len(self._slots) < _SLOTS:
            self._slots.append(slot)
        if status:
            call = int(np.searchsorted(bound.first, (status >> 8) - 1, "right"))
            runner.check(call << 8 | status & 0xFF)
        return self._split(requests, bound, outputs)

    def _bind(self, lengths: Sequence[int], memory: tuple[Words, Words] | None) -> RaggedBound:
        self.binds += 1
        try:
            return self.program.bind(lengths, self.runner.gang.threads, memory)
        except DimError as error:
            raise InputError(
                f"{self.runner.model}: lengths from {min(lengths)} to {max(lengths)} do not fit "
                f"together: {error}"
            ) from error

    def _idle_slot(self) -> _Slot | None:
        """A slot whose job no thread looks at any more."""
        try:
            slot = self._slots.pop(0)
        except IndexError:
            return None
        if slot.job.ticket < 0 or self.runner.gang.passed(slot.job):
            return slot
        self._slots.append(slot)
        return None

    def _split(
        self, requests: Sequence[Sequences], bound: RaggedBound, outputs: Sequence[Array]
    ) -> list[list[Array]]:
        starts, shapes = bound.starts.tolist(), bound.shapes.tolist()
        results = []
        first = 0
        for request in requests:
            last = first + request.rows
            own, at = [], 0
            for number, (array, rank) in enumerate(zip(outputs, self.program.ranks, strict=True)):
                size = array.itemsize
                part = array[starts[first][number] // size : starts[last][number] // size]
                # Axis 0 is that of the rows.
                own.append(part.reshape(request.rows, *shapes[first][at + 1 : at + rank]))
                at += rank
            results.append(own)
            first = last
        return results


def _joined(arrays: Sequence[Array]) -> Array:
    """The elements of several arrays, one behind the other."""
    return arrays[0] if len(arrays) == 1 else np.concatenate([a.reshape(-1) for a in arrays])
