"""Reading sizes off shapes by lookups: what unification by symbols gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.graph.dims import Dim, symbol
from engine.shape_reader import Axes, ShapeReader
from engine.specification import _fits

axes = st.lists(st.one_of(st.integers(0, 3), st.sampled_from("abc")), max_size=3).map(tuple)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@given(st.lists(st.tuples(axes, shapes), max_size=3), st.booleans())
def test_sizes_are_those_of_unification(
    inputs: list[tuple[Axes, tuple[int, ...]]], fit: bool
) -> None:
    if fit:  # Shapes that fit are rare among drawn ones.
        chosen = {"a": 1, "b": 2, "c": 3}
        inputs = [
            (own, tuple(chosen[axis] if isinstance(axis, str) else int(axis) for axis in own))
            for own, _ in inputs
        ]
    sizes: dict[str, int] = {}
    fits = all(_fits(own, shape, sizes) for own, shape in inputs)
    symbols = sorted({axis for own, _ in inputs for axis in own if isinstance(axis, str)})
    reader = ShapeReader.of([own for own, _ in inputs], symbols)
    assert reader is not None
    found = reader.read([shape for _, shape in inputs])
    assert found == (tuple(sizes[name] for name in symbols) if fits else None)
    assert fits or not fit


def test_what_takes_more_than_lookups_has_no_reader() -> None:
    assert ShapeReader.of([("n", symbol("n") * 2)], ["n"]) is None
    assert ShapeReader.of([("n", 4), None], ["n"]) is None
    assert ShapeReader.of([("n", 4)], ["n", "m"]) is None
    assert ShapeReader.of([("n", 4)], ["n"]) is not None
    assert isinstance(symbol("n") * 2, Dim)
