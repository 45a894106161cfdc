"""What an inference rule sees of its node, and how it says what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np

from engine.errors import ModelError
from engine.graph.dims import Dim, DimError, broadcast, symbol
from engine.graph.inference.elements import MAX_ELEMENTS, Elements, Real, from_data
from engine.graph.ir import Graph, Node, Value

Shape: TypeAlias = tuple[Dim, ...]


class Unknown(Exception):  # noqa: N818 - not an error: a rule ends where knowledge ends
    """Something that the rule needs is not known before run time."""


@dataclass(frozen=True)
class Guard:
    """An equality that the model relies on and inference could not prove; checked at bind.

    A side that cannot be evaluated (DimError, a broadcast that fails) breaks the guard too.
    `subgraph` is the innermost branch or body that the node belongs to, None in the main graph:
    the guard holds only when that one runs. `when` is 1 for the sizes it runs for and 0 for others,
    None where sizes do not tell.
    """

    left: Dim
    right: Dim
    message: str
    subgraph: Graph | None = None
    when: Dim | None = None


@dataclass
class State:
    """What one inference run carries across nodes.

    `elements` and `items` are keyed by ``id(value)``: known elements of small tensors, and the
    shape that the tensors of a sequence (or an optional) share. `walk` infers a subgraph. `taken`
    says by ``id(branch)`` for which sizes a branch runs (1, else 0; None where sizes do not tell).
    `strict` is a subgraph whose nodes are refused as those of the main graph are.
    """

    reserved: frozenset[str]
    walk: Callable[[Graph, State, Graph | None], None]
    guards: dict[tuple[Dim, Dim, Graph | None], Guard] = field(default_factory=dict)
    elements: dict[int, Elements] = field(default_factory=dict)
    items: dict[int, Shape | None] = field(default_factory=dict)
    created: dict[str, None] = field(default_factory=dict)
    taken: dict[int, Dim | None] = field(default_factory=dict)
    strict: Graph | None = None

    def when(self, subgraph: Graph | None) -> Dim | None:
        """1 for the sizes that a graph runs for, 0 for others; None where sizes do not tell."""
        return Dim.of(1) if subgraph is None else self.taken.get(id(subgraph))

    def fresh(self, name: str) -> Dim:
        """A symbol for what only a run can tell; the same name gives the same symbol."""
        while name in self.reserved:
            name += "_"
        self.created[name] = None
        return symbol(name)

    def known(self, value: Value) -> Elements | None:
        """Known elements of a value."""
        found = self.elements.get(id(value))
        if found is None and value.data is not None:
            found = from_data(value.data)
            if found is not None:
                self.elements[id(value)] = found
        return found


class Inference:
    """One node under inference.

    Accessors raise `Unknown` where knowledge ends and ModelError where the node is wrong.
    """

    def __init__(self, node: Node, version: int, state: State, subgraph: Graph | None) -> None:
        self.node = node
        self.version = version
        self.state = state
        self.subgraph = subgraph

    def error(self, text: str) -> NoReturn:
        """Refuse the model because of this node.

        In a subgraph the node may never run (exporters leave branches for other ranks in the
        model), so there it only ends the rule; running it is refused then.
        """
        if self.is_lenient:
            raise Unknown
        raise ModelError(f"node {self.node.label!r} ({self.node.key}): {text}")

    @property
    def is_lenient(self) -> bool:
        """Whether the node may be one that never runs."""
        return self.subgraph is not None and self.subgraph is not self.state.strict

    def attribute(self, name: str, default: Any = None) -> Any:
        """Attribute `name` or its default."""
        return self.node.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return self.node.input(index) is not None

    def value(self, index: int) -> Value:
        """Input `index`, which must be given."""
        value = self.node.input(index)
        if value is None:
            self.error(f"input {index} is missing")
        return value

    def present(self) -> list[Value]:
        """All inputs that are given."""
        return [value for value in self.node.inputs if value is not None]

    def shape(self, index: int) -> Shape:
        """Shape of input `index`."""
        shape = self.value(index).shape
        if shape is None:
            raise Unknown
        return shape

    def dtype(self, index: int) -> np.dtype[Any]:
        """Data type of input `index`."""
        dtype = self.value(index).dtype
        if dtype is None:
            raise Unknown
        return dtype

    def elements(self, index: int) -> Elements:
        """Elements of input `index`, None for each unknown one; the number of them is known."""
        value = self.value(index)
        found = self.state.known(value)
        if found is not None:
            return found
        shape = self.shape(index)
        if not all(dim.is_constant for dim in shape):
            raise Unknown
        sizes = tuple(dim.value for dim in shape)
        if np.prod(sizes, dtype=object) > MAX_ELEMENTS:
            raise Unknown
        return np.full(sizes, None, object)

    def entries(self, index: int) -> list[Dim | None]:
        """Elements of an integer vector (or scalar), None for each unknown one."""
        return [
            item if isinstance(item, Dim) else None for item in self.elements(index).reshape(-1)
        ]

    def numbers(self, index: int) -> list[float | None]:
        """Elements of a float vector, None for each that is not a constant."""
        items = self.elements(index).reshape(-1)
        return [item.constant if isinstance(item, Real) else None for item in items]

    def integers(self, index: int) -> list[int]:
        """Elements of a vector of constants."""
        found = self.entries(index)
        result: list[int] = []
        for item in found:
            if item is None or not item.is_constant:
                raise Unknown
            result.append(item.value)
        return result

    def scalar(self, index: int) -> Dim:
        """The one element of an integer input."""
        found = self.entries(index)
        if len(found) != 1:
            self.error(f"input {self.value(index).name!r} must have one element")
        if found[0] is None:
            raise Unknown
        return found[0]

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front; ModelError outside [-rank, rank)."""
        if not -rank <= axis < rank:
            self.error(f"axis {axis} is outside a tensor of rank {rank}")
        return axis % rank

    def rank(self, index: int, *allowed: int) -> int:
        """Rank of input `index`; ModelError where it is none of `allowed`."""
        rank = len(self.shape(index))
        if allowed and rank not in allowed:
            wanted = " or ".join(map(str, allowed))
            self.error(f"input {self.value(index).name!r} has rank {rank}, not {wanted}")
        return rank

    def fresh(self, output: int, axis: int | str) -> Dim:
        """Symbol for an axis of an output that depends on data."""
        value = self.node.outputs[output]
        name = value.name or f"{self.node.label}_output_{output}"
        return self.state.fresh(f"{name}_dim_{axis}")

    def unknown(self, output: int, rank: int) -> Shape:
        """Shape of `rank` symbols for an output."""
        return tuple(self.fresh(output, axis) for axis in range(rank))

    def require_equal(self, left: Dim, right: Dim, what: str) -> Dim:
        """The common value of two dims that the operator requires to be equal.

        ModelError where they never are, a guard where they may not be.
        """
        if left is right:
            return left
        difference = left - right
        if difference.is_constant and not self.is_lenient:
            self.error(f"{what} do not match: {left} and {right}")
        self._guard(left, right, what)
        return left if left.is_constant or not right.is_constant else right

    def broadcast(self, shapes: Sequence[Shape], what: str = "inputs") -> Shape:
        """Shape that `shapes` broadcast to by numpy's rule."""
        rank = max((len(shape) for shape in shapes), default=0)
        result: list[Dim] = []
        for axis in range(rank):
            dims = {
                shape[axis - rank + len(shape)]: None
                for shape in shapes
                if axis >= rank - len(shape)
            }
            if len(dims) == 1:
                result.extend(dims)
            else:
                result.append(self._broadcast_axis(tuple(dims), f"{what} at axis {axis - rank}"))
        return tuple(result)

    def _broadcast_axis(self, dims: Sequence[Dim], what: str) -> Dim:
        constants = {dim.value for dim in dims if dim.is_constant} - {1}
        if len(constants) > 1:
            if not self.is_lenient:
                sizes = " and ".join(str(size) for size in sorted(constants))
                self.error(f"{what} do not broadcast: {sizes}")
            first, second = sorted(constants)[:2]
            self._guard(Dim.of(first), Dim.of(second), what)
            return Dim.of(first)
        try:
            size = broadcast(*dims)
        except DimError as error:
            self.error(f"{what}: {error}")
        # A dim that is never 1 can only be the size itself.
        decisive = next((dim for dim in dims if dim.never_one()), None)
        if decisive is None:
            decisive = next((dim for dim in dims if _is_bounded_by(dims, dim)), None)
        if decisive is not None and size is not decisive:
            self._guard(size, decisive, what)
            return decisive
        return size

    def _guard(self, left: Dim, right: Dim, what: str) -> None:
        message = f"node {self.node.label!r} ({self.node.key}): {what} do not match"
        key = (left, right, self.subgraph)
        when = self.state.when(self.subgraph)
        self.state.guards.setdefault(key, Guard(left, right, message, self.subgraph, when))

    def output(
        self,
        index: int,
        shape: Iterable[Dim | int] | None = None,
        dtype: Any = None,
        elements: Elements | None = None,
    ) -> None:
        """Set what is known of output `index`; an output that the node does not have is ignored.

        Known `elements` also give the shape.
        """
        if index >= len(self.node.outputs):
            return
        value = self.node.outputs[index]
        value.kind = "tensor"
        if dtype is not None:
            value.dtype = np.dtype(dtype)
        if elements is not None:
            shape = elements.shape
        if shape is not None:
            value.shape = tuple(Dim.of(dim) for dim in shape)
        if elements is not None and elements.size <= MAX_ELEMENTS:
            self._set_elements(value, elements)

    def _set_elements(self, value: Value, elements: Elements) -> None:
        self.state.elements[id(value)] = elements
        if value.dtype is not None and value.dtype.kind in "iub" and elements.ndim <= 1:
            items = tuple(elements.reshape(-1))
            if all(isinstance(item, Dim) for item in items):
                value.dims = items

    def same_shape(self, index: int = 0, output: int = 0) -> None:
        """Give `output` the shape of input `index`."""
        self.output(output, self.shape(index))


def _is_bounded_by(dims: Sequence[Dim], dim: Dim) -> bool:
    """Whether all other dims are ``min(dim, constants > 1)``: 1 only where `dim` is 1 itself."""
    for other in dims:
        atom = other.atom
        if other is dim:
            continue
        if atom is None or atom.name != "minimum" or not atom.args:
            return False
        rest = [arg for arg in atom.args if arg is not dim]
        if len(rest) == len(atom.args) or not all(arg.at_least(2) for arg in rest):
            return False
    return True
