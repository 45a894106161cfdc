"""Programs: the calls of a native segment, with sizes and offsets as dim expressions.

`Program.seal` turns a program into plain data: a template of parameter words, and register code for
everything that depends on sizes. Binding it generates no code and touches no weights.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.errors import ModelError
from engine.graph.dims import Dim, DimError
from engine.graph.ir import Value
from engine.plan.binding import Sealed, Step
from engine.plan.dim_code import encode
from engine.plan.lowering import Call, Candidate
from engine.plan.tensor import Buffer, Space, Tensor
from engine.tuning import Tuning

Words = np.ndarray[Any, np.dtype[np.int64]]

ARENA: Final = 0
WEIGHTS: Final = 1
FIRST_ARGUMENT: Final = 2
"""Base indices: the arena, the weights, then the segment's inputs and outputs."""


@dataclass(eq=False)
class Program:
    """A native segment: calls in order, with the values that enter and leave it."""

    calls: list[Call]
    inputs: list[Value]
    outputs: list[Value]
    buffers: list[Buffer]
    choices: list[tuple[str, tuple[Candidate, ...]]] = field(default_factory=list)
    inline_ns: int = Tuning.inline_ns

    def specs(self) -> list[KernelSpec]:
        """Kernels that the program calls."""
        return [call.spec for call in self.calls]

    def seal(self, weights: Mapping[int, int]) -> Sealed:
        """The program as data; `weights` gives the byte offset of each weight by buffer index."""
        used = self.arena_buffers()
        places = {id(buffer): i for i, buffer in enumerate(used)}
        template: list[int] = []
        dynamic: list[tuple[int, Dim]] = []
        arena_words: list[tuple[int, int]] = []
        starts: list[int] = []
        for call in self.calls:
            starts.append(len(template) * 8)
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
            if not all(-(1 << 63) <= word < 1 << 63 for word in block):
                raise ModelError(
                    f"node {call.node.label!r} ({call.node.key}): a size or an attribute is beyond "
                    "what 64 bits hold"
                )
            template.extend(block)
        lifetimes, needs = self._dependencies(places)
        exprs = [dim for _, dim in dynamic]
        exprs.extend(call.items for call in self.calls)
        exprs.extend(call.cost for call in self.calls)
        exprs.extend(call.scratch for call in self.calls)
        exprs.extend(call.times for call in self.calls)
        exprs.extend(buffer.size for buffer in used)
        exprs.extend(dim for value in self.outputs for dim in value.shape or ())
        symbols = sorted(set().union(*(dim.symbols for dim in exprs)))
        try:
            code = encode(exprs, symbols)
        except DimError as error:
            first = self.calls[0].node
            raise ModelError(
                f"node {first.label!r} ({first.key}) and those after it: {error}"
            ) from error
        return Sealed(
            steps=tuple(Step(call.node.label, call.node.key, call.spec) for call in self.calls),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            template=np.array(template, np.int64),
            starts=np.array(starts, np.int64),
            code=code,
            dynamic_at=np.array([at for at, _ in dynamic], np.int64),
            arena_at=np.array([at for at, _ in arena_words], np.int64),
            arena_of=np.array([place for _, place in arena_words], np.int64),
            lifetimes=np.array(lifetimes, np.int64).reshape(-1, 2),
            needs=np.array(needs, np.int64),
            targets=np.array(
                [call.target.index + 1 if call.target else 0 for call in self.calls], np.int64
            ),
            ranks=tuple(len(value.shape or ()) for value in self.outputs),
            inline_ns=self.inline_ns,
            choices=tuple(
                (label, tuple((each.name, each.cost, each.note) for each in candidates))
                for label, candidates in self.choices
            ),
            traffic=pickle.dumps([_traffic(call) for call in self.calls]),
        )

    def _base_index(self, buffer: Buffer) -> int:
        if buffer.space is Space.ARENA:
            return ARENA
        if buffer.space is Space.WEIGHTS:
            return WEIGHTS
        first = FIRST_ARGUMENT + (len(self.inputs) if buffer.space is Space.OUTPUT else 0)
        return first + buffer.index

    def arena_buffers(self) -> list[Buffer]:
        """Buffers in the arena, in the order in which calls touch them."""
        found: dict[int, Buffer] = {}
        for call in self.calls:
            for tensor in (*call.tensors(False), *call.tensors(True)):
                if tensor.buffer.space is Space.ARENA:
                    found[id(tensor.buffer)] = tensor.buffer
        return list(found.values())

    def _dependencies(self, places: Mapping[int, int]) -> tuple[list[tuple[int, int]], list[int]]:
        """Lifetimes of arena buffers, and per call how many leading calls it must wait for.

        A call waits for the last earlier call that wrote what it touches or read what it writes, a
        jump for all. What is touched both in a loop and outside lives throughout the loop.
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
            needs.append(index if call.target else need)
        for enter, end in self._loops():
            for place in range(len(places)):
                outside = first[place] < enter or last[place] > end
                if outside and first[place] <= end and last[place] >= enter:
                    first[place], last[place] = min(first[place], enter), max(last[place], end)
        return list(zip(first, last, strict=True)), needs

    def _loops(self) -> list[tuple[int, int]]:
        """First and last call of every loop, inner ones first: the jumps that enter and repeat."""
        return [
            (call.target.index - 1, index)
            for index, call in enumerate(self.calls)
            if call.target is not None and call.target.index <= index
        ]


def _traffic(call: Call) -> Dim:
    """Bytes of what a call reads and writes, each tensor once; a gather reads what it writes."""
    written = call.tensors(True)
    read = written if call.spec.family.startswith("gather") else call.tensors(False)
    total = Dim.of(0)
    for tensors in (read, written):
        for tensor in {id(tensor): tensor for tensor in tensors}.values():
            total = total + tensor.size * tensor.itemsize
    return total


def _put(block: list[int], word: int, value: Dim, at: int, dynamic: list[tuple[int, Dim]]) -> None:
    if value.is_constant:
        block[word] = value.value
    else:
        dynamic.append((at, value))
