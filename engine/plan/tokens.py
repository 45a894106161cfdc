"""Which calls of a program may see the tokens of many sequences at once.

A model takes sequences as [batch, length, ...]. Lay several sequences of different lengths behind
each other, without a gap: what a model computes for each token by itself may then run once over all
tokens, as for a single long sequence, and only what looks beyond a token (attention, recurrence,
sums over the length, positions) must run sequence by sequence. Here each call of a program is given
a `Form`, by where its operands lie and by which elements its kernel brings together.

With a batch of one, a buffer whose size is ``unit * length`` bytes holds *tokens*: those of several
sequences lie behind each other in one buffer of ``unit * sum(lengths)`` bytes. One of ``unit *
batch`` bytes holds *rows*, one per sequence. A call over tokens is admitted where every operand has
one axis of length ``k * length`` whose steps are the bytes of a token (divided by k), all of its
other axes lie within a token, the operands agree about that axis, and the kernel's family keeps its
entries apart. That is read off the tensors that the call was lowered with. A call over rows is the
same with the batch in place of the length. Recurrent layers take a step of all sequences at once:
their kernel knows rows that begin anywhere and end when they end. Anything else runs per sequence,
exactly as it would for that sequence alone, so what is not understood costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from engine.graph.dim_substitution import Substitution
from engine.graph.dims import Dim, DimError
from engine.plan.lowering import Call
from engine.plan.tensor import ONE, Buffer, Space, Tensor
from engine.plan.token_rules import RULES, initial_states, recurrent
from engine.plan.token_view import Place, Room, Rooms, Unfit, View, multiple


class Form(Enum):
    """How a call runs over several sequences."""

    TOKENS = "once over all tokens"
    ROWS = "once over all sequences"
    SHARED = "once"
    STEPS = "once, in steps that each sequence takes as long as it lasts"
    EACH = "per sequence"


@dataclass
class Tokens:
    """Forms of a program's calls and places of its buffers, by ``id``."""

    batch: str
    length: str
    forms: list[Form] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What runs how, in a sentence."""
        apart: dict[str, int] = {}
        for name in self.apart:
            apart[name] = apart.get(name, 0) + 1
        once = len(self.forms) - sum(apart.values())
        text = f"{once} of {len(self.forms)} calls run once for all sequences"
        if apart:
            names = ", ".join(f"{count} {name}" for name, count in sorted(apart.items()))
            text += f"; per sequence: {names}"
        return text

    apart: list[str] = field(default_factory=list)


def classify(calls: Sequence[Call], batch: str, length: str) -> Tokens:
    """Form of every call; the rows of `batch` must be proven independent.

    Raises Unfit where no product runs over all tokens, so that nothing would be gained, or where
    the program jumps.
    """
    if any(call.target is not None for call in calls):
        raise Unfit("it has loops or branches that a run decides")
    analysis = _Analysis(calls, batch, length)
    tokens = analysis.run()
    products = [
        call
        for call, form in zip(calls, tokens.forms, strict=True)
        if form is Form.TOKENS and call.spec.family == "dot"
    ]
    if not products:
        raise Unfit("none of its matrix products takes token by token")
    return tokens


class _Analysis:
    def __init__(self, calls: Sequence[Call], batch: str, length: str) -> None:
        self.calls = calls
        self.batch, self.length = batch, length
        self.one = Substitution({batch: ONE})
        self.shared: set[int] = set()
        self.buffers = {
            id(tensor.buffer): tensor.buffer
            for call in calls
            for tensor in (*call.tensors(False), *call.tensors(True))
            if tensor.buffer.space is not Space.WEIGHTS
        }
        self.places = {key: self._place(buffer) for key, buffer in self.buffers.items()}

    @property
    def rooms(self) -> Rooms:
        """What is known of the buffers at present."""
        return Rooms(self.one, self.places, self.shared)

    def run(self) -> Tokens:
        """Forms and places; what only single sequences touch gets memory apart, well aligned."""
        self.shared = {
            key
            for key, buffer in self.buffers.items()
            if buffer.space is Space.ARENA and not buffer.size.symbols
        }
        while True:
            forms = [self._form(call) for call in self.calls]
            written = {
                id(tensor.buffer)
                for call, form in zip(self.calls, forms, strict=True)
                if form is not Form.SHARED
                for tensor in call.tensors(True)
            }
            if not self.shared & written:
                break
            self.shared -= written
        steps = self._steps(forms)
        together = {
            id(tensor.buffer)
            for call, form in zip(self.calls, forms, strict=True)
            if form in (Form.TOKENS, Form.ROWS, Form.STEPS)
            for tensor in (*call.tensors(False), *call.tensors(True))
        }
        tokens = Tokens(self.batch, self.length, forms)
        for key, buffer in self.buffers.items():
            place = self.places[key]
            if key in self.shared:
                place = Place(Room.SHARED)
            elif key in steps:
                place = Place(Room.STEPS)
            elif buffer.space is Space.ARENA and key not in together:
                place = Place(Room.OWN)
            tokens.places[key] = place
        tokens.apart = [
            call.node.op for call, form in zip(self.calls, forms, strict=True) if form is Form.EACH
        ]
        return tokens

    def _steps(self, forms: list[Form]) -> set[int]:
        """Let recurrent layers take their steps together; returns the buffers of their states."""
        found: set[int] = set()
        starts = {
            id(call.arguments["state"].buffer): number
            for number, call in enumerate(self.calls)
            if call.spec.family == "recurrent_start" and isinstance(call.arguments["state"], Tensor)
        }
        for number, call in enumerate(self.calls):
            if call.spec.family != "recurrent":
                continue
            view = View(self.rooms, call, Room.TOKENS, self.length)
            states = [id(view.tensor(name).buffer) for name in ("state", "shared")]
            start = starts[states[0]]
            try:
                recurrent(view)
                initial_states(View(self.rooms, self.calls[start], Room.TOKENS, self.length))
            except (Unfit, DimError):
                continue
            forms[number] = forms[start] = Form.STEPS
            found.update(states)
        return found

    def _place(self, buffer: Buffer) -> Place:
        try:
            size = self.one(buffer.size)
        except DimError:
            return Place(Room.OWN)
        unit = multiple(size, self.length)
        if unit is not None:
            return Place(Room.TOKENS, unit)
        unit = multiple(buffer.size, self.batch)
        return Place(Room.OWN) if unit is None else Place(Room.ROWS, unit)

    def _form(self, call: Call) -> Form:
        if self._is_shared(call):
            return Form.SHARED
        check = RULES.get(call.spec.family)
        if check is not None:
            for room, name, form in (
                (Room.TOKENS, self.length, Form.TOKENS),
                (Room.ROWS, self.batch, Form.ROWS),
            ):
                try:
                    check(View(self.rooms, call, room, name))
                except (Unfit, DimError):
                    continue
                return form
        return Form.EACH

    def _is_shared(self, call: Call) -> bool:
        """Whether a call is the same for all sequences: made of weights alone, of fixed size."""
        dims = [call.items, *(v for v in call.arguments.values() if isinstance(v, Dim))]
        for tensor in (*call.tensors(False), *call.tensors(True)):
            dims.extend((*tensor.shape, *tensor.strides, tensor.offset))
            space = tensor.buffer.space
            if space is not Space.WEIGHTS and id(tensor.buffer) not in self.shared:
                return False
        return not any(dim.symbols for dim in dims)
