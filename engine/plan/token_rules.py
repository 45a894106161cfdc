"""Which kernels keep tokens apart: a rule per family, and those of recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from engine.graph.dims import Dim
from engine.plan.tensor import ONE
from engine.plan.token_view import Place, Room, Unfit, View


def _elementwise(view: View) -> None:
    """Windows of one shape, entry by entry."""
    view.require_alike("y0", [n for n in view.names() if n != "y0"])


def _copy(view: View) -> None:
    view.require_alike("y", ["x"])


def _normalize(view: View) -> None:
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


def _softmax(view: View) -> None:
    """Rows of fixed length by themselves."""
    view.require_fixed("length", "inner")
    view.require_alike("y", ["x"])


def _reduce(view: View) -> None:
    """Reductions within a token: a fixed number of elements, none split into blocks."""
    view.require_fixed("count")
    if view.call.spec.options["split"]:
        raise Unfit("a split reduction")
    view.carried(view.tensor("x"))
    view.carried(view.tensor("y"))


def _gather(view: View) -> None:
    """Rows of a constant table by index."""
    if view.call.node.key != "Gather" or view.number("batches") != ONE:
        raise Unfit("no lookup in a table")
    view.require_fixed("row_bytes", "limit0", "step0")
    view.require_free(view.tensor("x"))
    if view.carried(view.tensor("indices")).factor != view.carried(view.tensor("y")).factor:
        raise Unfit("indices and rows differ")


_PRODUCTS: Final = ("MatMul", "packhorse.MatMul", "Gemm", "LSTM", "GRU", "RNN")


def _dot(view: View) -> None:
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


def recurrent(view: View) -> None:
    """Projections and states of all steps by token, last states by row, weights alike."""
    if view.call.spec.options["lengths"]:
        raise Unfit("it is told how long sequences are")
    for name in view.names():
        if name in ("x", "y"):
            place = view.rooms.places.get(id(view.tensor(name).buffer), Place(Room.OWN))
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


def initial_states(view: View) -> None:
    """States to begin with, by row."""
    for name in view.names():
        if name not in ("state", "shared"):
            _state(view, name)


def _state(view: View, name: str) -> None:
    """A state per row: those of a row's directions lie together."""
    tensor = view.tensor(name)
    place = view.rooms.places.get(id(tensor.buffer), Place(Room.OWN))
    if place.room is not Room.ROWS or view.dim(tensor.offset).symbols:
        raise Unfit(f"{name} does not hold a state per row")
    view.require_fixed(f"{name}_d")


def _without_ones(view: View, shape: Sequence[Dim]) -> list[Dim]:
    return [dim for dim in map(view.dim, shape) if dim != ONE]


RULES: Final[Mapping[str, Callable[[View], None]]] = {
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
