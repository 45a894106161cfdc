"""Sizes of symbols read off the shapes of a model's inputs, by lookups that are decided once."""

from __future__ import annotations

from collections.abc import Sequence

from engine.graph.dims import Dim

Axes = tuple[int | str | Dim, ...]


class ShapeReader:
    """Reads the sizes of some symbols, where every axis of every input is a number or a symbol."""

    def __init__(
        self,
        ranks: Sequence[int],
        where: Sequence[tuple[int, int]],
        fixed: Sequence[tuple[int, int, int]],
        equal: Sequence[tuple[int, int, int, int]],
    ) -> None:
        """Made by `of`. Places are an input and an axis: of each symbol, of axes of known sizes,
        and of pairs of axes of the same size."""
        self._ranks = ranks
        self._where = where
        self._fixed = fixed
        self._equal = equal

    @classmethod
    def of(cls, inputs: Sequence[Axes | None], symbols: Sequence[str]) -> ShapeReader | None:
        """A reader of `symbols` in this order; None where that takes more than lookups."""
        first: dict[str, tuple[int, int]] = {}
        fixed, equal = [], []
        for place, axes in enumerate(inputs):
            if axes is None:
                return None
            for axis, size in enumerate(axes):
                if isinstance(size, int):
                    fixed.append((place, axis, size))
                elif not isinstance(size, str):
                    return None
                elif size in first:
                    equal.append((place, axis, *first[size]))
                else:
                    first[size] = place, axis
        if not first.keys() >= set(symbols):
            return None
        ranks = [len(axes) for axes in inputs if axes is not None]
        return cls(ranks, [first[name] for name in symbols], fixed, equal)

    def read(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
        """The symbols' sizes for the shapes of all inputs; None where a shape does not fit."""
        for rank, shape in zip(self._ranks, shapes, strict=True):
            if len(shape) != rank:
                return None
        for place, axis, size in self._fixed:
            if shapes[place][axis] != size:
                return None
        for place, axis, other, there in self._equal:
            if shapes[place][axis] != shapes[other][there]:
                return None
        return tuple([shapes[place][axis] for place, axis in self._where])
