"""The registry of expansions of standard operators; importing a family file fills it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final, TypeAlias

from engine.graph.body import Body

Expansion: TypeAlias = Callable[[Body], bool]
"""Writes the nodes that compute an operator's outputs; False where a kernel takes the node as it
is. Raises `Unsupported` where neither is so."""

_EXPANSIONS: Final[dict[str, Expansion]] = {}
_FAMILIES: Final = (
    "columns",
    "grids",
    "normalisation",
    "pooling",
    "products",
    "quantised",
    "reduction",
    "resizing",
    "small_types",
)


def expands(*operators: str) -> Callable[[Expansion], Expansion]:
    """Register the expansion of `operators`."""

    def register(function: Expansion) -> Expansion:
        for operator in operators:
            assert operator not in _EXPANSIONS, f"second expansion of {operator}"
            _EXPANSIONS[operator] = function
        return function

    return register


def expansions() -> dict[str, Expansion]:
    """Every expansion by operator name."""
    for family in _FAMILIES:
        import_module(f"engine.graph.standard.{family}")
    return _EXPANSIONS
