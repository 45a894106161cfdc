"""The registry of expansions, one per contributed operator; importing a family file fills it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from engine.graph.body import Body
from engine.graph.families import Families

Expansion: TypeAlias = Callable[[Body], None]
"""Writes the nodes that compute an operator's outputs. Raises `Unsupported`."""

_EXPANSIONS: Final = Families[Expansion](
    "engine.graph.contributed",
    *("activations", "attention", "movement", "normalisation", "products", "quantised"),
)

expands = _EXPANSIONS.of
expansions = _EXPANSIONS.all


def known_operators() -> tuple[str, ...]:
    """Names of the operators that can be expanded."""
    return tuple(sorted(expansions()))
