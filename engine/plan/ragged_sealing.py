"""Sealing a program for sequences of different lengths: its words twice, for all and for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.batching import BatchAxis
from engine.graph.dim_substitution import Substitution
from engine.graph.dims import Dim, symbol
from engine.graph.ir import Graph, Value
from engine.plan.binding import Sealed
from engine.plan.lowering import Call
from engine.plan.program import Program
from engine.plan.ragged import LONGEST, OWN, SEQUENCES, RaggedProgram, Words
from engine.plan.tensor import ONE, ZERO, Buffer, Space, Tensor
from engine.plan.token_view import Place, Room, Unfit
from engine.plan.tokens import Form, Tokens, classify


def ragged_program(
    graph: Graph, segments: Sequence[Any], batching: BatchAxis, weights: Mapping[int, int]
) -> RaggedProgram:
    """The program for sequences of different lengths of a model with these segments.

    Raises Unfit with the reason where there is none.
    """
    if not batching.independent or batching.symbol is None:
        raise Unfit(f"its rows are not independent: {batching.reason}")
    sizes = {s for v in graph.inputs for dim in v.shape or () for s in dim.symbols}
    free = sorted(sizes - {batching.symbol})
    if len(free) != 1:
        what = f"besides the batch: {', '.join(free)}" if free else "but that of the batch"
        raise Unfit(f"its inputs have {'several axes' if free else 'no axis'} of open size {what}")
    program = segments[0]
    if len(segments) != 1 or not isinstance(program, Program):
        raise Unfit("it is not one native program: sizes are measured, or operators fall back")
    if {id(v) for v in graph.outputs} != {id(v) for v in program.outputs}:
        raise Unfit("an output is an input, a constant or a size")
    return seal_ragged(program, classify(program.calls, batching.symbol, free[0]), weights)


def seal_ragged(program: Program, tokens: Tokens, weights: Mapping[int, int]) -> RaggedProgram:
    """A program as data for `RaggedProgram.bind`.

    `weights` gives the byte offset of each weight by buffer index.
    """
    arena = program.arena_buffers()
    places = [tokens.places[id(buffer)] for buffer in arena]
    outer = _arguments(program)
    for value_buffers in outer:
        places += [tokens.places.get(id(b), Place(Room.OWN)) for b in value_buffers]
    numbers = {id(buffer): number for number, buffer in enumerate((*arena, *outer[0], *outer[1]))}
    ragged = _Buffers(tokens, numbers)
    substituted = {
        Form.ROWS: Substitution({tokens.batch: symbol(SEQUENCES)}),
        Form.STEPS: Substitution({tokens.batch: symbol(SEQUENCES), tokens.length: symbol(LONGEST)}),
    }
    calls = [
        _whole(call, form, ragged, substituted.get(form))
        for call, form in zip(program.calls, tokens.forms, strict=True)
    ]
    one = Substitution({tokens.batch: ONE})
    calls = [
        _stepping(call, original, tokens, one, len(program.inputs)) if form is Form.STEPS else call
        for call, original, form in zip(calls, program.calls, tokens.forms, strict=True)
    ]
    # Behind the inputs comes the table of the sequences.
    table = Value("sequences", np.dtype(np.int64), ())
    inputs = [*program.inputs, table]
    whole = Program(calls, inputs, [], [], [], program.inline_ns).seal(weights)
    apart = [number for number, form in enumerate(tokens.forms) if form is Form.EACH]
    own = [number for number, place in enumerate(places) if place.room is Room.OWN]
    each, own_at, shapes_at = _each(program, apart, [*arena, *outer[0], *outer[1]], own, weights)
    moved = [
        (start // 8 + slot.word + 1, numbers[id(value.buffer)])
        for index, start in zip(apart, each.starts.tolist(), strict=True)
        for name, slot in program.calls[index].spec.layout.fields.items()
        if isinstance(value := program.calls[index].arguments[name], Tensor)
        and value.buffer.space is not Space.WEIGHTS
    ]
    count = len(arena)
    return RaggedProgram(
        batch=tokens.batch,
        length=tokens.length,
        summary=tokens.summary,
        whole=whole,
        each=each,
        apart=_words(apart),
        arena_buffers=count,
        token_bytes=_words([p.unit if p.room is Room.TOKENS else 0 for p in places]),
        row_bytes=_words([p.unit if p.room is Room.ROWS else 0 for p in places]),
        own=_words(own),
        own_at=_words(own_at),
        moved_at=_words([at for at, _ in moved]),
        moved_of=_words([of for _, of in moved]),
        inputs=tuple(places[count : count + len(outer[0])]),
        outputs=tuple(places[count + len(outer[0]) :]),
        ranks=tuple(len(value.shape or ()) for value in program.outputs),
        shapes_at=shapes_at,
    )


class _Buffers:
    """Buffers as they are for several sequences, by those of the program."""

    def __init__(self, tokens: Tokens, numbers: Mapping[int, int]) -> None:
        self._tokens = tokens
        self._numbers = numbers
        self._made: dict[int, Buffer] = {}
        self._states = Substitution({tokens.batch: symbol(SEQUENCES)})

    def get(self, buffer: Buffer) -> Buffer:
        """The buffer in place of one of the program's."""
        if buffer.space is Space.WEIGHTS:
            return buffer
        key = id(buffer)
        if key not in self._made:
            place = self._tokens.places[key]
            size = {
                Room.TOKENS: symbol(self._tokens.length) * place.unit,
                Room.ROWS: symbol(SEQUENCES) * place.unit,
                Room.OWN: symbol(f"{OWN}{self._numbers[key]}"),
                Room.SHARED: buffer.size,
                Room.STEPS: self._states(buffer.size),
            }[place.room]
            self._made[key] = Buffer(buffer.space, buffer.index, size, buffer.name)
        return self._made[key]


def _whole(call: Call, form: Form, buffers: _Buffers, rows: Substitution | None) -> Call:
    """A call as the program for all has it: that of each has its place and its buffers alone."""

    def dim(value: Dim) -> Dim:
        if form is Form.EACH:
            return ZERO
        return value if rows is None else rows(value)

    arguments: dict[str, Tensor | Dim | float] = {}
    for name, value in call.arguments.items():
        if isinstance(value, Tensor):
            arguments[name] = Tensor(
                value.dtype, (), (), buffers.get(value.buffer), dim(value.offset)
            )
        elif isinstance(value, Dim):
            arguments[name] = dim(value)
        else:
            arguments[name] = value
    return replace(
        call,
        items=dim(call.items),
        cost=dim(call.cost),
        scratch=dim(call.scratch),
        times=dim(call.times),
        arguments=arguments,
    )


def _stepping(call: Call, original: Call, tokens: Tokens, one: Substitution, table: int) -> Call:
    """A call of a recurrent layer over all sequences: where its rows begin, and when they end."""
    arguments = dict(call.arguments)

    def number(name: str) -> Dim:
        value = original.arguments[name]
        assert isinstance(value, Dim)
        return one(value)

    for name in ("x", "y", "h0", "c0", "yh", "yc"):
        tensor = original.arguments.get(name)
        if not isinstance(tensor, Tensor):
            continue
        target = arguments[name]
        assert isinstance(target, Tensor)
        arguments[name] = replace(target, offset=one(tensor.offset))
        for suffix in ("t", "d"):
            if f"{name}_{suffix}" in arguments:
                arguments[f"{name}_{suffix}"] = number(f"{name}_{suffix}")
        unit = tokens.places[id(tensor.buffer)].unit
        arguments[f"{name}_b"] = Dim.of(0 if name in ("x", "y") else unit // 4)
    if call.spec.family == "recurrent_start":
        return replace(call, arguments=arguments)
    spec = KernelSpec.of("recurrent", **{**original.spec.options, "ragged": True})
    buffer = Buffer(Space.INPUT, table, ZERO, "sequences")
    for name, offset in (("starts", ZERO), ("ends", symbol(SEQUENCES))):
        arguments[name] = Tensor(np.dtype(np.int64), (), (), buffer, offset)
    return replace(call, spec=spec, arguments=arguments)


def _each(
    program: Program,
    apart: list[int],
    buffers: list[Buffer],
    own: list[int],
    weights: Mapping[int, int],
) -> tuple[Sealed, list[int], int]:
    """The program of what runs per sequence, without buffers of its own; where among its values
    the sizes of the buffers `own` stand, and where the shapes of the outputs begin."""
    outer = [number for number in own if buffers[number].space is not Space.ARENA]
    sizes = [
        Value(f"size {number}", np.dtype(np.uint8), (buffers[number].size,)) for number in outer
    ]
    calls = [program.calls[index] for index in apart]
    inputs = [*program.inputs, Value("sequences", np.dtype(np.int64), ())]
    made = Program(calls, inputs, [*program.outputs, *sizes], [], [], program.inline_ns)
    touched = [id(buffer) for buffer in made.arena_buffers()]
    none = np.zeros(0, np.int64)
    sealed = replace(made.seal(weights), arena_at=none, arena_of=none, lifetimes=none.reshape(0, 2))
    behind = len(touched) + sum(len(value.shape or ()) for value in program.outputs)
    own_at = [
        behind + outer.index(number) if number in outer else touched.index(id(buffers[number]))
        for number in own
    ]
    return sealed, own_at, len(touched)


def _arguments(program: Program) -> tuple[list[Buffer], list[Buffer]]:
    """Buffers of the program's inputs and outputs."""
    found: dict[tuple[Space, int], Buffer] = {}
    for call in program.calls:
        for tensor in (*call.tensors(False), *call.tensors(True)):
            found.setdefault((tensor.buffer.space, tensor.buffer.index), tensor.buffer)
    # An input may be read for its shape alone.
    return (
        [
            found.get((Space.INPUT, index)) or Buffer(Space.INPUT, index, ZERO, value.name)
            for index, value in enumerate(program.inputs)
        ],
        [found[Space.OUTPUT, index] for index in range(len(program.outputs))],
    )


def _words(numbers: list[int]) -> Words:
    made: Words = np.array(numbers, np.int64)
    return made


__all__ = ["ragged_program", "seal_ragged"]
