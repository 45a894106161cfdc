"""Lowering: each node of the graph becomes kernel calls on physical tensors.

A lowering function takes ``(node, low)``, reads its inputs' tensors with `Lowering.read`, claims
its outputs with `Lowering.write` (or `Lowering.alias` for a view) and emits `Lowering.call`. It
raises `NoKernel` with a reason where the node must take the fallback path; whatever it has emitted
by then is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.codegen.target import Target
from engine.graph.dims import Dim
from engine.graph.ir import Node, Value
from engine.plan.packing import Origin
from engine.plan.tensor import ONE, ZERO, Buffer, Space, Tensor, product, row_major
from engine.precision import ARITHMETIC
from engine.runtime.memory import address
from engine.tuning import DEFAULT, Tuning


class NoKernel(Exception):  # noqa: N818 - a verdict that planning catches, not an error of the user
    """A node has no native kernel; the text says why."""


@dataclass(eq=False)
class Label:
    """A place in a program: the number of the call that stands there, once it is known."""

    index: int = -1


@dataclass(eq=False)
class Call:
    """One kernel call of a program.

    `items` is the number of work items, `cost` the estimated nanoseconds of one item on one thread
    (it decides how many items a thread claims at a time and whether other threads join at all),
    `scratch` the bytes of per-thread scratch. `times` is how often the call is expected to run,
    `target` where the program goes on if its kernel says so: the call is a jump. A jump back leads
    to behind the jump that enters the loop.
    """

    spec: KernelSpec
    node: Node
    items: Dim
    cost: Dim
    scratch: Dim
    arguments: dict[str, Tensor | Dim | float]
    writes: frozenset[str]
    times: Dim = ONE
    target: Label | None = None

    def tensors(self, written: bool) -> list[Tensor]:
        """Tensors the call reads, or those it writes."""
        return [
            value
            for name, value in self.arguments.items()
            if isinstance(value, Tensor) and (name in self.writes) == written
        ]


@dataclass(frozen=True)
class Candidate:
    """One way to compute a node; `cost` is the predicted time in ns on one thread.

    `note` says what decides where the cost does not.
    """

    name: str
    cost: Dim
    note: str = ""


@dataclass
class Spare:
    """Bytes of weights that may be kept beyond one packing of each, for faster algorithms."""

    left: int = 0

    def take(self, size: int) -> bool:
        """Whether `size` bytes were left; they are taken if so."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(eq=False)
class Lowering:
    """State of lowering one program segment."""

    target: Target
    calls: list[Call] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    weights: list[Buffer] = field(default_factory=list)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    halos: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    gaps: set[int] = field(default_factory=set)
    dense: dict[int, Tensor] = field(default_factory=dict)
    joined: dict[int, Node] = field(default_factory=dict)
    threads: int = 1
    tuning: Tuning = DEFAULT
    spare: Spare = field(default_factory=Spare)
    choices: list[tuple[str, tuple[Candidate, ...]]] = field(default_factory=list)
    symbols: set[str] = field(default_factory=set)
    node: Node | None = None
    when: Dim = ONE
    times: Dim = ONE
    arithmetic: str = ""

    @property
    def pairs(self) -> str:
        """Form in which the node at hand multiplies constant weights as pairs of bf16 numbers,
        empty where it multiplies float32."""
        reduced = self.node is not None and self.node.attribute("precision") == ARITHMETIC
        return self.arithmetic if reduced else ""

    @contextmanager
    def only_when(self, condition: Dim) -> Iterator[None]:
        """Calls inside run only for the sizes where `condition` is 1; it is 0 for others.

        They have no work items then, and their memory no bytes. What is written inside is not
        there outside: tensors and copies made inside are forgotten.
        """
        outer = self.when
        self.when = outer * condition
        try:
            with self.apart(ONE):
                yield
        finally:
            self.when = outer

    @contextmanager
    def apart(self, times: Dim) -> Iterator[None]:
        """Calls inside run `times` as often as those outside, or not at all.

        What is written inside is not there outside, as in `only_when`.
        """
        outer, tensors, dense = self.times, dict(self.tensors), dict(self.dense)
        self.times = outer * times
        try:
            yield
        finally:
            self.times, self.tensors, self.dense = outer, tensors, dense

    def mark(self, label: Label) -> None:
        """Let `label` stand for the next call."""
        label.index = len(self.calls)

    def read(self, value: Value | None) -> Tensor:
        """Tensor of an input value; constants become weights, known shape values are written."""
        assert value is not None, "an omitted input was read"
        found = self.tensors.get(id(value))
        if found is None:
            if value.data is not None:
                found = self.constant(value.data, value.name)
            elif value.dims is not None:
                found = known(self, value)
            else:
                raise AssertionError(f"{value.name} is read before it is written")
            self.tensors[id(value)] = found
        return found

    def read_dense(self, value: Value | None) -> Tensor:
        """As `read`, contiguous: a copy is emitted where the tensor has gaps."""
        return self.contiguous(self.read(value))

    def contiguous(self, tensor: Tensor) -> Tensor:
        """The tensor itself where it is contiguous, else a copy (one per tensor).

        Strides are row-major, along axes of length 1, too: callers take a row's size from them.
        """
        if tensor.is_contiguous:
            dense = row_major(tensor.shape)
            return tensor if tensor.strides == dense else replace(tensor, strides=dense)
        if id(tensor) not in self.dense:
            target = self.temp(tensor.dtype, tensor.shape, "dense")
            copy(self, tensor, target)
            self.dense[id(tensor)] = target
        return self.dense[id(tensor)]

    def write(self, value: Value, dense: bool = True) -> Tensor:
        """Tensor to write an output value to.

        With ``dense=False`` the caller copes with strides on all axes but the last: the tensor may
        carry the zero halo that a later convolution asks for, a gap behind each row, or be a window
        of the Concat that is its only reader.
        """
        found = self.tensors.get(id(value))
        if found is not None:
            return found
        assert value.shape is not None
        assert value.dtype is not None
        halo = self.halos.get(id(value))
        window = place(self, value) if halo is None else None
        if window is not None and (window.is_contiguous or not dense):
            tensor = window
        elif halo is None and not dense and id(value) in self.gaps:
            tensor = self.spaced(value.dtype, value.shape, value.name)
        elif halo is None or dense:
            tensor = self.temp(value.dtype, value.shape, value.name)
        else:
            tensor = self.padded(value.dtype, value.shape, halo, value.name)
        self.tensors[id(value)] = tensor
        return tensor

    def alias(self, value: Value, tensor: Tensor) -> None:
        """Let `value` be a view; where it is a graph output, the view is copied out at the end."""
        if id(value) in self.tensors:
            copy(self, tensor, self.tensors[id(value)])
        else:
            self.tensors[id(value)] = tensor

    def temp(self, dtype: Any, shape: tuple[Dim, ...], name: str = "temp") -> Tensor:
        """Contiguous arena memory."""
        kind = np.dtype(dtype)
        size = product(shape) * kind.itemsize * self.when
        buffer = Buffer(Space.ARENA, len(self.buffers), size, name)
        self.buffers.append(buffer)
        return Tensor(kind, tuple(shape), row_major(shape), buffer)

    def spaced(self, dtype: Any, shape: tuple[Dim, ...], name: str = "spaced") -> Tensor:
        """Arena memory with a cache line between the rows, whose length is constant."""
        gap = 64 // np.dtype(dtype).itemsize
        whole = self.temp(dtype, (*shape[:-1], shape[-1] + gap), name)
        return replace(whole, shape=tuple(shape))

    def padded(
        self,
        dtype: Any,
        shape: tuple[Dim, ...],
        halo: tuple[tuple[int, int], ...],
        name: str = "padded",
    ) -> Tensor:
        """Arena memory with a halo around the window; emits the call that zeroes the halo."""
        outer = tuple(d + (before + after) for d, (before, after) in zip(shape, halo, strict=True))
        whole = self.temp(dtype, outer, name)
        offset = ZERO
        for stride, (before, _) in zip(whole.strides, halo, strict=True):
            offset = offset + stride * before
        window = Tensor(whole.dtype, tuple(shape), whole.strides, whole.buffer, offset, halo)
        zero_halo(self, whole, window)
        return window

    def constant(self, data: np.ndarray[Any, Any], name: str = "constant") -> Tensor:
        """Weight memory holding `data` (copied, C order)."""
        # A scalar becomes a vector there.
        array = np.ascontiguousarray(data).reshape(np.shape(data))
        if array.dtype == np.bool_:
            array = array.view(np.bool_)
        shape = tuple(Dim.of(n) for n in array.shape)
        buffer = Buffer(Space.WEIGHTS, len(self.weights), Dim.of(array.nbytes), name, array)
        origin: Origin | None = getattr(data, "origin", None)
        if origin is not None:
            start = address(array) - origin.start
            # A copy lies elsewhere.
            if 0 <= start <= origin.size - array.nbytes:
                buffer.origin, buffer.origin_start = origin, start
        self.weights.append(buffer)
        return Tensor(array.dtype, shape, row_major(shape), buffer)

    def offer(self, *candidates: Candidate) -> None:
        """Note between what this node's lowering chooses; the first that costs least wins."""
        assert self.node is not None
        self.choices.append((self.node.label, candidates))

    def call(
        self,
        spec: KernelSpec,
        *,
        items: Dim | int,
        cost: Dim | int,
        writes: str,
        scratch: Dim | int = 0,
        **arguments: Tensor | Dim | int | float,
    ) -> None:
        """Emit a kernel call; `arguments` name every field of the kernel's layout.

        `writes` names the tensors that the kernel writes, separated by spaces. A dim given for a
        float holds the bits of a double.
        """
        layout = spec.layout
        missing = layout.fields.keys() ^ arguments.keys()
        assert not missing, f"{spec.family}: fields and arguments differ in {sorted(missing)}"
        assert self.node is not None
        values: dict[str, Tensor | Dim | float] = {}
        for name, value in arguments.items():
            kind = layout.fields[name].kind
            if kind == "int" and isinstance(value, int):
                value = Dim.of(value)
            elif kind == "float" and not isinstance(value, Dim):
                value = float(value)  # type: ignore[arg-type]
            values[name] = value
        self.calls.append(
            Call(
                spec,
                self.node,
                Dim.of(items) * self.when,
                Dim.of(cost) * self.when,
                Dim.of(scratch) * self.when,
                values,
                frozenset(writes.split()),
                self.times,
            )
        )

    def jump(self, spec: KernelSpec, target: Label, writes: str = "", **arguments: Any) -> None:
        """Emit a jump: a call after which the program goes on at `target` if the kernel says so."""
        self.call(spec, items=1, cost=10, writes=writes, **arguments)
        self.calls[-1].target = target


Lower = Callable[[Node, Lowering], None]
_REGISTRY: Final[dict[str, Lower]] = {}
_MODULES: Final = (
    "engine.plan.lower.attention",
    "engine.plan.lower.branch",
    "engine.plan.lower.convolution",
    "engine.plan.lower.data_sizes",
    "engine.plan.lower.dot",
    "engine.plan.lower.elementwise",
    "engine.plan.lower.fourier",
    "engine.plan.lower.gather",
    "engine.plan.lower.grid",
    "engine.plan.lower.lines",
    "engine.plan.lower.loop",
    "engine.plan.lower.movement",
    "engine.plan.lower.normalization",
    "engine.plan.lower.padding",
    "engine.plan.lower.heads",
    "engine.plan.lower.planes",
    "engine.plan.lower.pooling",
    "engine.plan.lower.recurrent",
    "engine.plan.lower.reduction",
    "engine.plan.lower.regions",
    "engine.plan.lower.resize",
    "engine.plan.lower.scatter",
    "engine.plan.lower.selection",
    "engine.plan.lower.softmax",
    "engine.plan.lower.transposed_convolution",
    "engine.plan.lower.trees",
    "engine.plan.lower.views",
    "engine.plan.lower.windows",
)


def lowers(*keys: str) -> Callable[[Lower], Lower]:
    """Register a lowering function for operators by `Node.key`."""

    def add(function: Lower) -> Lower:
        for key in keys:
            if key in _REGISTRY:
                raise ValueError(f"{key} has two lowerings")
            _REGISTRY[key] = function
        return function

    return add


def lowerings() -> dict[str, Lower]:
    """Every lowering function by `Node.key`; tests walk it."""
    for module in _MODULES:
        import_module(module)
    return _REGISTRY


def check_symbols(node: Node, symbols: set[str]) -> None:
    """Raise NoKernel unless the sizes of all that a node touches are known to binding."""
    for value in (*(v for v in node.inputs if v is not None), *node.outputs):
        if value.kind != "tensor" or (value.name and value.shape is None):
            raise NoKernel(f"the rank of {value.name} is unknown")
        for dim in (*(value.shape or ()), *(value.dims or ())):
            unknown = dim.symbols - symbols
            if unknown:
                raise NoKernel(f"{', '.join(sorted(unknown))} is known only after the run")


def lowering_of(node: Node) -> Lower:
    """Lowering function of a node; raises NoKernel where its operator has none."""
    from engine.plan.lower.known import is_known, lower_known

    found = lowerings().get(node.key)
    if is_known(node):
        return lower_known
    if found is None:
        raise NoKernel(f"operator {node.key} has no native kernel")
    return found


def copy(low: Lowering, source: Tensor, target: Tensor) -> None:
    """Emit a copy between windows of one shape and data type."""
    from engine.plan.lower.copies import emit_copy

    emit_copy(low, source, target)


def zero_halo(low: Lowering, whole: Tensor, window: Tensor) -> None:
    """Emit the call that zeroes what surrounds `window` in `whole`."""
    from engine.plan.lower.copies import emit_zero_halo

    emit_zero_halo(low, whole, window)


def place(low: Lowering, value: Value) -> Tensor | None:
    """Window of a Concat's output that `value` fills, None where there is no such Concat."""
    from engine.plan.lower.movement import window_of

    return window_of(low, value)


def known(low: Lowering, value: Value) -> Tensor:
    """Emit the writing of a value whose elements are known as dims."""
    from engine.plan.lower.known import known_tensor

    return known_tensor(low, value)


__all__ = ["ONE", "ZERO", "Call", "Lowering", "NoKernel", "lowering_of", "lowers"]
