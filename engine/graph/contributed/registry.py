"""The registry of expansions, one per contributed operator; importing a family file fills it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final, TypeAlias

from engine.graph.body import Body

Expansion: TypeAlias = Callable[[Body], None]
"""Writes the nodes that compute an operator's outputs. Raises `Unsupported`."""

_EXPANSIONS: Final[dict[str, Expansion]] = {}
_FAMILIES: Final = (
    "activations",
    "attention",
    "movement",
    "normalisation",
    "products",
    "quantised",
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
        import_module(f"engine.graph.contributed.{family}")
    return _EXPANSIONS


def known_operators() -> tuple[str, ...]:
    """Names of the operators that can be expanded."""
    return tuple(sorted(expansions()))
