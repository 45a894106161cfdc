"""Programs bound to several sequences of different lengths, without padding and without new code.

A ragged program is the compiled program of a model, bound another way (`engine.plan.tokens` says
why that is allowed): calls over tokens are bound once, for one sequence as long as all together;
calls over rows once, for as many sequences; all others once per sequence, for that sequence alone,
with the operands' offsets moved to where it lies. Two sealed programs hold the words for that:
`whole` every call in order, which also lays out the arena, and `each` those that run per sequence.
The operation table is put together from both.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.plan.binding import Sealed, Step
from engine.plan.token_view import Place
from engine.runtime.layout import Op
from engine.runtime.memory import words

Words = np.ndarray[Any, np.dtype[np.int64]]

SEQUENCES: Final = "sequences of a batch"
"""Symbol of their number in calls over rows; no model has a name with blanks for a size."""

LONGEST: Final = "length of the longest sequence"

OWN: Final = "bytes of buffer "
"""Begins the symbols of memory that sequences have apart."""

_ALIGNMENT: Final = 64

_SLACK: Final = 64
"""Between the memory of two sequences, as between buffers: sizes of a power of two would meet in
the same cache sets."""

_GROUPS_PER_THREAD: Final = 4
"""Small calls of many sequences are claimed in so many groups per thread."""


@dataclass(slots=True)
class RaggedBound:
    """A program for some sequences.

    `memory` begins with the `count` operations and with the parameters that the walker reads, and
    may have room for more; word `table` of the latter begins the table of the sequences: where each
    begins, then how long each is, both in tokens. `arena` is the bytes that it needs. `starts` has
    shape [sequences + 1, outputs]: the byte at which each sequence begins in every output, and
    where the last one ends. `shapes` has, per sequence, the dims of all outputs one after the
    other. `first` gives the first operation of every call, and the number of operations.
    """

    memory: tuple[Words, Words]
    count: int
    table: int
    arena: int
    starts: Words
    shapes: Words
    first: Words
    inline: bool
    estimate: int


@dataclass(eq=False)
class RaggedProgram:
    """A program that can be bound to sequences of different lengths.

    `batch` and `length` name the sizes of an input [batch, length, ...]. `apart` numbers the calls
    of `whole` that run per sequence, in the order of `each`. Buffers are numbered: `arena_buffers`
    in the order of `whole`, then the inputs, then the outputs. `token_bytes` and `row_bytes` hold
    the bytes of a token or a row in each (0 where there are none such). `own` numbers those in
    which every sequence has memory apart, the arena's first; `own_at` says where the program `each`
    gives its size. The words `moved_at` of a sequence's parameters grow by where buffer `moved_of`
    holds it. `ranks` are those of the outputs, whose dims `each` gives from `shapes_at` on.
    """

    batch: str
    length: str
    summary: str
    whole: Sealed
    each: Sealed
    apart: Words
    arena_buffers: int
    token_bytes: Words
    row_bytes: Words
    own: Words
    own_at: Words
    moved_at: Words
    moved_of: Words
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    ranks: tuple[int, ...]
    shapes_at: int

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every call, in order."""
        return self.whole.steps

    def specs(self) -> list[KernelSpec]:
        """Kernels that it calls."""
        return self.whole.specs()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def link(self, addresses: Mapping[KernelSpec, int]) -> None:
        """Fix kernel addresses; after this it can be bound."""
        self.whole.link(addresses)
        self.each.link(addresses)
        self._lock = threading.Lock()
        self._own_in_arena = int((self.own < self.arena_buffers).sum())
        self._own_symbols = [f"{OWN}{n}" for n in self.own[: self._own_in_arena]]

    def bind(
        self, lengths: Sequence[int], threads: int, memory: tuple[Words, Words] | None = None
    ) -> RaggedBound:
        """The program for sequences of these lengths, longest first.

        `memory` is for operations and parameters; it is used where it suffices. Raises DimError
        where a length does not fit.
        """
        count = len(lengths)
        numbers: dict[int, int] = {}
        kind = np.array([numbers.setdefault(n, len(numbers)) for n in lengths], np.int64)
        series = self.each.bind_series(self.length, list(numbers), threads)
        trailing = series.trailing[kind]
        starts = self._starts(lengths, trailing)
        sizes = {self.batch: 1, self.length: sum(lengths), SEQUENCES: count}
        sizes[LONGEST] = lengths[0] if count else 0
        for symbol, number in zip(self._own_symbols, self.own.tolist(), strict=False):
            sizes[symbol] = int(starts[-1, number])
        with self._lock:
            bound = self.whole.bind(sizes, threads)
            offsets = self.whole.placed().copy()
        first = self._first(bound.count, count)
        total, head = int(first[-1]), len(bound.parameters)
        step = series.parameters.shape[1]
        behind = head + count * step
        memory = _room(memory, total * Op.WORDS, behind + 2 * count)
        memory[1][:head] = bound.parameters
        tokens = np.array(lengths, np.int64)
        memory[1][behind : behind + count] = np.cumsum(tokens) - tokens
        memory[1][behind + count : behind + 2 * count] = tokens
        own = memory[1][head : head + count * step].reshape(count, step)
        np.take(series.parameters, kind, axis=0, out=own)
        shift = starts[:-1]
        shift[:, : self.arena_buffers] += offsets
        own[:, self.moved_at] += shift[:, self.moved_of]
        table = memory[0][: total * Op.WORDS].reshape(total, Op.WORDS)
        self._fill(table, bound.operations.reshape(-1, Op.WORDS), first)
        self._fill_each(table, series.operations, kind, first, head, step, threads)
        estimate = bound.estimate + int(series.estimates[kind].sum())
        return RaggedBound(
            memory,
            total,
            behind,
            bound.arena,
            starts[:, -len(self.outputs) :],
            trailing[:, self.shapes_at : self.shapes_at + sum(self.ranks)],
            first,
            threads == 1 or estimate < self.whole.inline_ns,
            estimate,
        )

    def _starts(self, lengths: Sequence[int], trailing: Words) -> Words:
        """Where in every buffer each sequence begins, and the last one ends, in bytes."""
        count = len(lengths)
        tokens = np.zeros(count + 1, np.int64)
        np.cumsum(lengths, out=tokens[1:])
        starts = tokens[:, None] * self.token_bytes
        starts += np.arange(count + 1)[:, None] * self.row_bytes
        sizes, arena = trailing[:, self.own_at], self._own_in_arena
        sizes[:, :arena] += _ALIGNMENT - 1 + _SLACK
        sizes[:, :arena] &= -_ALIGNMENT
        starts[1:, self.own] = np.cumsum(sizes, axis=0)
        return starts

    def _first(self, calls: int, count: int) -> Words:
        """The first operation of every call, and the number of operations."""
        repeats = np.ones(calls, np.int64)
        repeats[self.apart] = count
        first = np.zeros(calls + 1, np.int64)
        np.cumsum(repeats, out=first[1:])
        return first

    def _fill(self, table: Words, calls: Words, first: Words) -> None:
        """Operations of calls that run once; what all operations wait for."""
        table[first[:-1]] = calls
        wait = Op.WAIT // 8
        table[:, wait] = np.repeat(first[calls[:, wait]], np.diff(first))
        table[:, Op.GROUP // 8] = 1

    def _fill_each(
        self,
        table: Words,
        operations: Words,
        kind: Words,
        first: Words,
        head: int,
        step: int,
        threads: int,
    ) -> None:
        """Operations of calls per sequence; small ones of neighbouring sequences are grouped."""
        count = len(kind)
        if not len(self.apart) or not count:
            return
        at = first[self.apart][:, None] + np.arange(count)
        rows = operations[kind].transpose(1, 0, 2).copy()
        rows[:, :, Op.PARAMETERS // 8] += (head + np.arange(count) * step) * 8
        rows[:, :, Op.WAIT // 8] = table[at, Op.WAIT // 8]
        rows[:, :, Op.GROUP // 8] = 1
        size = -(-count // (_GROUPS_PER_THREAD * threads))
        small = (rows[:, :, Op.ITEMS // 8] == 1).all(1)
        members = np.full(-(-count // size), size)
        members[-1] = count - size * (len(members) - 1)
        groups = rows[:, ::size, Op.GROUP // 8]
        groups[small] = members
        table[at] = rows


def _room(
    memory: tuple[Words, Words] | None, operations: int, parameters: int
) -> tuple[Words, Words]:
    """`memory` where it has so many words, else new memory of a quarter more."""
    if memory is None or len(memory[0]) < operations or len(memory[1]) < parameters:
        operations += operations // (4 * Op.WORDS) * Op.WORDS
        memory = words(operations), words(parameters + parameters // 4)
    return memory
