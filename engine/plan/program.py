"""Programs: the calls of a native segment, bound to the sizes of one request.

Everything that depends on sizes is a dim expression; at load all of them are compiled into one
straight-line function. Binding evaluates it, places the arena and fills in the words that differ
from the template. It generates no code and touches no weights.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, compile_bind
from engine.graph.ir import Node, Value
from engine.plan.lowering import Call
from engine.plan.memory import place
from engine.plan.tensor import Buffer, Space, Tensor
from engine.runtime.layout import Op
from engine.runtime.memory import words

Words = np.ndarray[Any, np.dtype[np.int64]]

ARENA: Final = 0
WEIGHTS: Final = 1
FIRST_ARGUMENT: Final = 2
"""Base indices: the arena, the weights, then the segment's inputs and outputs."""

_CLAIM_NS: Final = 4_000
"""Estimated nanoseconds of work that one claim should hold, to make its atomic negligible."""

_SERIAL_NS: Final = 6_000
"""Operations estimated below this stay on one thread: waking the others costs more."""

_INLINE_NS: Final = 20_000
"""Programs estimated below this run on the calling thread."""


@dataclass(frozen=True)
class Bound:
    """A program for one set of sizes.

    `operations` and `parameters` are what the walker reads; `outputs` the shapes of the output
    arrays; `inline` whether the program is so small that the caller runs it itself.
    """

    operations: Words
    parameters: Words
    count: int
    arena: int
    outputs: tuple[tuple[int, ...], ...]
    inline: bool
    estimate: int


@dataclass(eq=False)
class Program:
    """A native segment: calls in order, with the values that enter and leave it."""

    calls: list[Call]
    inputs: list[Value]
    outputs: list[Value]
    buffers: list[Buffer]
    symbols: tuple[str, ...] = ()
    _addresses: Mapping[KernelSpec, int] = field(default_factory=dict)

    def specs(self) -> list[KernelSpec]:
        """Kernels that the program calls."""
        return [call.spec for call in self.calls]

    def node_of(self, operation: int) -> Node:
        """Node that an operation of the program comes from."""
        return self.calls[operation].node

    def seal(self, addresses: Mapping[KernelSpec, int], weights: Mapping[int, int]) -> None:
        """Fix kernel addresses and the byte offsets of weights, by buffer index.

        After this the program can be bound; buffers no longer hold weights' content.
        """
        self._used = self._arena_buffers()
        places = {id(buffer): i for i, buffer in enumerate(self._used)}
        template: list[int] = []
        dynamic: list[tuple[int, Dim]] = []
        arena_words: list[tuple[int, int]] = []
        starts: list[int] = []
        for call in self.calls:
            starts.append(len(template))
            block = [0] * call.spec.layout.words
            for name, slot in call.spec.layout.fields.items():
                value = call.arguments[name]
                at = len(template) + slot.word
                if isinstance(value, Tensor):
                    block[slot.word] = self._base_index(value.buffer)
                    offset = value.offset * value.itemsize
                    if value.buffer.space is Space.WEIGHTS:
                        offset = offset + weights[value.buffer.index]
                    elif value.buffer.space is Space.ARENA:
                        arena_words.append((at + 1, places[id(value.buffer)]))
                    _put(block, slot.word + 1, offset, at + 1, dynamic)
                elif isinstance(value, Dim):
                    _put(block, slot.word, value, at, dynamic)
                else:
                    block[slot.word] = struct.unpack("q", struct.pack("d", value))[0]
            template.extend(block)
        self._template = np.array(template, np.int64)
        self._starts = np.array(starts, np.int64) * 8
        self._compile(dynamic)
        self._arena_at = np.array([at for at, _ in arena_words], np.int64)
        self._arena_of = np.array([place for _, place in arena_words], np.int64)
        self._functions = np.array([addresses[call.spec] for call in self.calls], np.int64)
        self._lifetimes, self._needs = self._dependencies(places)
        for buffer in self.buffers:
            buffer.data = None

    def _compile(self, dynamic: list[tuple[int, Dim]]) -> None:
        """One function for all dims: words, then items and costs, buffer sizes, output shapes."""
        shapes = [dim for value in self.outputs for dim in value.shape or ()]
        exprs = [dim for _, dim in dynamic]
        exprs.extend(call.items for call in self.calls)
        exprs.extend(call.cost for call in self.calls)
        exprs.extend(call.scratch for call in self.calls)
        exprs.extend(buffer.size for buffer in self._used)
        exprs.extend(shapes)
        self._dynamic_at = np.array([at for at, _ in dynamic], np.int64)
        self.symbols = tuple(sorted(set().union(*(dim.symbols for dim in exprs))))
        self._evaluate = compile_bind(exprs, self.symbols)
        self._ranks = [len(value.shape or ()) for value in self.outputs]

    def _base_index(self, buffer: Buffer) -> int:
        if buffer.space is Space.ARENA:
            return ARENA
        if buffer.space is Space.WEIGHTS:
            return WEIGHTS
        first = FIRST_ARGUMENT + (len(self.inputs) if buffer.space is Space.OUTPUT else 0)
        return first + buffer.index

    def _arena_buffers(self) -> list[Buffer]:
        found: dict[int, Buffer] = {}
        for call in self.calls:
            for tensor in (*call.tensors(False), *call.tensors(True)):
                if tensor.buffer.space is Space.ARENA:
                    found[id(tensor.buffer)] = tensor.buffer
        return list(found.values())

    def _dependencies(self, places: Mapping[int, int]) -> tuple[list[tuple[int, int]], list[int]]:
        """Lifetimes of arena buffers, and per call how many leading calls it must wait for.

        A call waits for the last earlier call that wrote what it touches or read what it writes.
        """
        first = [len(self.calls)] * len(places)
        last = [-1] * len(places)
        written: dict[int, int] = {}
        touched: dict[int, int] = {}
        needs: list[int] = []
        for index, call in enumerate(self.calls):
            need = 0
            for is_write in (False, True):
                for tensor in call.tensors(is_write):
                    key = id(tensor.buffer)
                    before = touched.get(key, -1) if is_write else written.get(key, -1)
                    need = max(need, before + 1)
                    if key in places:
                        first[places[key]] = min(first[places[key]], index)
                        last[places[key]] = index
            for is_write in (False, True):
                for tensor in call.tensors(is_write):
                    touched[id(tensor.buffer)] = index
                    if is_write:
                        written[id(tensor.buffer)] = index
            needs.append(need)
        return list(zip(first, last, strict=True)), needs

    def bind(self, sizes: Mapping[str, int], threads: int) -> Bound:
        """The program for these sizes of its symbols."""
        values = self._evaluate(*(sizes[name] for name in self.symbols))
        count, dynamic = len(self.calls), len(self._dynamic_at)
        items = np.array(values[dynamic : dynamic + count], np.int64)
        costs = np.array(values[dynamic + count : dynamic + 2 * count], np.int64)
        at = dynamic + 3 * count
        buffer_sizes = values[at : at + len(self._used)]
        shapes = _shapes(values[at + len(self._used) :], self._ranks)
        parameters = words(len(self._template))
        parameters[:] = self._template
        parameters[self._dynamic_at] = values[:dynamic]
        offsets, arena = place(buffer_sizes, self._lifetimes)
        if len(self._arena_at):
            parameters[self._arena_at] += np.array(offsets, np.int64)[self._arena_of]
        needs = self._reuse_needs(offsets, buffer_sizes)
        operations = words(count * Op.WORDS)
        table = operations.reshape(count, Op.WORDS)
        estimate = int((items * costs).sum())
        _fill(table, self._functions, self._starts, items, costs, needs, threads)
        inline = threads == 1 or estimate < _INLINE_NS
        return Bound(operations, parameters, count, arena, shapes, inline, estimate)

    def _reuse_needs(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """Waits of `_dependencies`, raised where a buffer takes the place of a dead one."""
        needs = list(self._needs)
        spans = sorted(
            (first, last, offset, offset + size)
            for (first, last), offset, size in zip(self._lifetimes, offsets, sizes, strict=True)
        )
        for first, _, start, end in spans:
            for _, dead, other_start, other_end in spans:
                if dead < first and start < other_end and other_start < end:
                    needs[first] = max(needs[first], dead + 1)
        return needs


def _put(block: list[int], word: int, value: Dim, at: int, dynamic: list[tuple[int, Dim]]) -> None:
    if value.is_constant:
        block[word] = value.value
    else:
        dynamic.append((at, value))


def _shapes(values: Sequence[int], ranks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    shapes = []
    at = 0
    for rank in ranks:
        shapes.append(tuple(values[at : at + rank]))
        at += rank
    return tuple(shapes)


def _fill(
    table: Words,
    functions: Words,
    starts: Words,
    items: Words,
    costs: Words,
    needs: Sequence[int],
    threads: int,
) -> None:
    """Fill the operation table: grain by cost, neighbouring small operations grouped."""
    count = len(items)
    table[:, Op.FUNCTION // 8] = functions
    table[:, Op.PARAMETERS // 8] = starts
    table[:, Op.RANGE // 8] = items
    small = (items * costs < _SERIAL_NS) | (items <= 1)
    per_claim = np.maximum(1, _CLAIM_NS // np.maximum(costs, 1))
    shares = np.maximum(1, items // (4 * threads))
    table[:, Op.ITEMS // 8] = np.where(small, 1, items)
    table[:, Op.GRAIN // 8] = np.where(small, 1, np.minimum(per_claim, shares))
    start = 0
    while start < count:
        stop = start + 1
        wait = needs[start]
        if small[start]:
            while stop < count and small[stop]:
                wait = max(wait, min(needs[stop], start))
                stop += 1
        table[start:stop, Op.GROUP // 8] = 1
        table[start, Op.GROUP // 8] = stop - start
        table[start, Op.WAIT // 8] = wait
        start = stop
