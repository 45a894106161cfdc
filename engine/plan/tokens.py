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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from engine.graph.dim_substitution import Substitution
from engine.graph.dims import Dim, DimError, symbol
from engine.plan.lowering import Call
from engine.plan.tensor import ONE, ZERO, Buffer, Space, Tensor


class Unfit(Exception):  # noqa: N818 - an answer, not an error
    """Why sequences of different lengths cannot share a run of a program."""


class Form(Enum):
    """How a call runs over several sequences."""

    TOKENS = "once over all tokens"
    ROWS = "once over all sequences"
    SHARED = "once"
    STEPS = "once, in steps that each sequence takes as long as it lasts"
    EACH = "per sequence"


class Room(Enum):
    """What a buffer holds of several sequences: `OWN` is memory apart for each, `STEPS` the states
    of all of them while a recurrent layer runs."""

    TOKENS = "tokens"
    ROWS = "rows"
    OWN = "own"
    SHARED = "shared"
    STEPS = "steps"


@dataclass(frozen=True)
class Place:
    """Room of a buffer, and the bytes of a token or a row."""

    room: Room
    unit: int = 0


@dataclass(frozen=True)
class _Axis:
    """Where a tensor carries tokens or rows: the axis, and entries per token."""

    number: int
    factor: int


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
            view = _View(self, call, Room.TOKENS, self.length)
            states = [id(view.tensor(name).buffer) for name in ("state", "shared")]
            start = starts[states[0]]
            try:
                _recurrent(view)
                _initial(_View(self, self.calls[start], Room.TOKENS, self.length))
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
        unit = _multiple(size, self.length)
        if unit is not None:
            return Place(Room.TOKENS, unit)
        unit = _multiple(buffer.size, self.batch)
        return Place(Room.OWN) if unit is None else Place(Room.ROWS, unit)

    def _form(self, call: Call) -> Form:
        if self._is_shared(call):
            return Form.SHARED
        check = _CHECKS.get(call.spec.family)
        if check is not None:
            for room, name, form in (
                (Room.TOKENS, self.length, Form.TOKENS),
                (Room.ROWS, self.batch, Form.ROWS),
            ):
                try:
                    check(_View(self, call, room, name))
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


def _multiple(dim: Dim, name: str) -> int | None:
    """The constant that `dim` is of the symbol `name`, None where it is something else."""
    size = symbol(name)
    factor = dim // size
    if factor.is_constant and factor.value > 0 and factor * size == dim:
        return factor.value
    return None


class _View:
    """A call seen as one over tokens (or rows): reads off where its operands carry them."""

    def __init__(self, analysis: _Analysis, call: Call, room: Room, name: str) -> None:
        self.analysis = analysis
        self.call = call
        self.room = room
        self.name = name

    def dim(self, dim: Dim) -> Dim:
        """A dim for a batch of one; for rows, whatever it is."""
        return self.analysis.one(dim) if self.room is Room.TOKENS else dim

    def number(self, field_: str) -> Dim:
        """An integer parameter of the call."""
        value = self.call.arguments[field_]
        assert isinstance(value, Dim)
        return self.dim(value)

    def require_fixed(self, *fields: str) -> None:
        """Require that parameters do not depend on the sizes."""
        for name in fields:
            if name in self.call.arguments and self.number(name).symbols:
                raise Unfit(f"{name} depends on the sizes")

    def tensor(self, name: str) -> Tensor:
        """A tensor of the call."""
        value = self.call.arguments[name]
        assert isinstance(value, Tensor)
        return value

    def names(self) -> list[str]:
        """Names of the call's tensors."""
        return [n for n, value in self.call.arguments.items() if isinstance(value, Tensor)]

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor holds the same for every sequence."""
        return tensor.buffer.space is Space.WEIGHTS or id(tensor.buffer) in self.analysis.shared

    def carried(self, tensor: Tensor) -> _Axis:
        """The axis along which a tensor carries tokens; Unfit where it does not do so densely."""
        place = self.analysis.places.get(id(tensor.buffer))
        if place is None or place.room is not self.room:
            raise Unfit(f"{tensor.buffer.name} does not hold {self.room.value}")
        found: _Axis | None = None
        low = high = 0
        for number, (size, stride) in enumerate(zip(tensor.shape, tensor.strides, strict=True)):
            size, stride = self.dim(size), self.dim(stride)
            if size == ONE:
                continue
            factor = _multiple(size, self.name)
            if factor is not None:
                if found is not None or stride.symbols:
                    raise Unfit(f"{tensor.buffer.name} carries them along two axes")
                if stride.value * factor * tensor.itemsize != place.unit:
                    raise Unfit(f"{tensor.buffer.name} does not carry them densely")
                found = _Axis(number, factor)
                high += stride.value * (factor - 1)
                continue
            if size.symbols or stride.symbols:
                raise Unfit(f"{tensor.buffer.name} has another axis of open size")
            reach = (size.value - 1) * stride.value
            low, high = low + min(reach, 0), high + max(reach, 0)
        offset = self.dim(tensor.offset)
        if found is None or offset.symbols:
            raise Unfit(f"{tensor.buffer.name} does not carry them")
        low, high = low + offset.value, high + offset.value
        if low < 0 or (high + 1) * tensor.itemsize > place.unit:
            raise Unfit(f"{tensor.buffer.name} reaches beyond its own")
        return found

    def require_free(self, tensor: Tensor) -> None:
        """Require a tensor that is the same for all: constant, and not stepped through by them."""
        if not self.is_constant(tensor) or self.dim(tensor.offset).symbols:
            raise Unfit(f"{tensor.buffer.name} is not the same for all")
        for size, stride in zip(tensor.shape, tensor.strides, strict=True):
            if self.dim(size).symbols and self.dim(stride) != ZERO:
                raise Unfit(f"{tensor.buffer.name} is stepped through")

    def require_alike(self, first: str, names: Sequence[str]) -> None:
        """Require tensors to carry their tokens along the same axis of the same shape as `first`,
        or to be the same for all."""
        target = self.tensor(first)
        axis = self.carried(target)
        for name in names:
            tensor = self.tensor(name)
            if self.is_constant(tensor):
                self.require_free(tensor)
            elif tensor.shape != target.shape or self.carried(tensor) != axis:
                raise Unfit(f"{tensor.buffer.name} carries them otherwise")


def _elementwise(view: _View) -> None:
    """Windows of one shape, entry by entry."""
    view.require_alike("y0", [n for n in view.names() if n != "y0"])


def _copy(view: _View) -> None:
    view.require_alike("y", ["x"])


def _normalize(view: _View) -> None:
    """Rows of fixed length by themselves; tokens lie among the rows."""
    view.require_fixed("length", "parts", "part_stride", "groups", "group_stride")
    view.require_fixed("outer_stride", "scale_group", "scale_part")
    y = view.carried(view.tensor("y"))
    if view.carried(view.tensor("x")) != y:
        raise Unfit("input and output carry them otherwise")
    for name in view.names():
        if name in ("mean", "inverse"):
            view.carried(view.tensor(name))
        elif name not in ("x", "y"):
            view.require_free(view.tensor(name))


def _softmax(view: _View) -> None:
    """Rows of fixed length by themselves."""
    view.require_fixed("length", "inner")
    view.require_alike("y", ["x"])


def _reduce(view: _View) -> None:
    """Reductions within a token: a fixed number of elements, none split into blocks."""
    view.require_fixed("count")
    if view.call.spec.options["split"]:
        raise Unfit("a split reduction")
    view.carried(view.tensor("x"))
    view.carried(view.tensor("y"))


def _gather(view: _View) -> None:
    """Rows of a constant table by index."""
    if view.call.node.key != "Gather" or view.number("batches") != ONE:
        raise Unfit("no lookup in a table")
    view.require_fixed("row_bytes", "limit0", "step0")
    view.require_free(view.tensor("x"))
    if view.carried(view.tensor("indices")).factor != view.carried(view.tensor("y")).factor:
        raise Unfit("indices and rows differ")


_PRODUCTS: Final = ("MatMul", "packhorse.MatMul", "Gemm", "LSTM", "GRU", "RNN")


def _dot(view: _View) -> None:
    """Rows of A times a constant B, each row by itself."""
    if view.call.node.key not in _PRODUCTS or view.number("batch1") != ONE:
        raise Unfit("no product of rows")
    view.require_fixed("n", "k1", "k1_last", "k2", "k3", "a_k2", "a_k3", "panel", "b_b0", "b_b1")
    view.require_free(view.tensor("b"))
    a, c = view.tensor("a"), view.tensor("c")
    rows = _without_ones(view, a.shape[:-1])
    if rows != _without_ones(view, c.shape[:-1]):
        raise Unfit("A and C differ in their rows")
    if view.carried(a).number == a.rank - 1 or view.carried(c).number == c.rank - 1:
        raise Unfit("tokens are summed over, or columns")
    for name in view.names():
        tensor = view.tensor(name)
        if name in ("a", "b", "c"):
            continue
        if view.is_constant(tensor):
            view.require_free(tensor)
        elif _without_ones(view, tensor.shape[:-1]) != rows or view.carried(tensor).number == (
            tensor.rank - 1
        ):
            raise Unfit(f"{tensor.buffer.name} carries them otherwise")


def _recurrent(view: _View) -> None:
    """Projections and states of all steps by token, last states by row, weights alike."""
    if view.call.spec.options["lengths"]:
        raise Unfit("it is told how long sequences are")
    for name in view.names():
        if name in ("x", "y"):
            place = view.analysis.places.get(id(view.tensor(name).buffer), Place(Room.OWN))
            step = view.number(f"{name}_t")
            if place.room is not Room.TOKENS or step * 4 != place.unit:
                raise Unfit(f"{name} does not hold a step per token")
            view.require_fixed(f"{name}_d")
            if view.dim(view.tensor(name).offset).symbols:
                raise Unfit(f"{name} begins elsewhere for other sizes")
        elif name in ("yh", "yc"):
            _state(view, name)
        elif name not in ("state", "shared"):
            view.require_free(view.tensor(name))


def _initial(view: _View) -> None:
    for name in view.names():
        if name not in ("state", "shared"):
            _state(view, name)


def _state(view: _View, name: str) -> None:
    """A state per row: those of a row's directions lie together."""
    tensor = view.tensor(name)
    place = view.analysis.places.get(id(tensor.buffer), Place(Room.OWN))
    if place.room is not Room.ROWS or view.dim(tensor.offset).symbols:
        raise Unfit(f"{name} does not hold a state per row")
    view.require_fixed(f"{name}_d")


def _without_ones(view: _View, shape: Sequence[Dim]) -> list[Dim]:
    return [dim for dim in map(view.dim, shape) if dim != ONE]


_CHECKS: Final[Mapping[str, Callable[[_View], None]]] = {
    "elementwise": _elementwise,
    "copy_rows": _copy,
    "copy_strided": _copy,
    "copy_tiles": _copy,
    "normalize": _normalize,
    "softmax": _softmax,
    "reduce": _reduce,
    "gather": _gather,
    "dot": _dot,
}
"""By kernel family: raises Unfit unless a call keeps tokens apart. What is not listed runs per
sequence."""
