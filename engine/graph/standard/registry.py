"""The registry of expansions of standard operators; importing a family file fills it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from engine.graph.body import Body
from engine.graph.families import Families

Expansion: TypeAlias = Callable[[Body], bool]
"""Writes the nodes that compute an operator's outputs; False where a kernel takes the node as it
is. Raises `Unsupported` where neither is so."""

_EXPANSIONS: Final = Families[Expansion](
    "engine.graph.standard",
    *("columns", "grids", "normalisation", "pooling", "products", "quantised"),
    *("reduction", "resizing", "small_types"),
)

expands = _EXPANSIONS.of
expansions = _EXPANSIONS.all
