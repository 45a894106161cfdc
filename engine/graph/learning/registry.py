"""The registry of rewrites, one per operator; importing a family file fills it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final, TypeAlias

from engine.graph.body import Body

DOMAIN: Final = "ai.onnx.ml"

Rewrite: TypeAlias = Callable[[Body], None]
"""Writes the nodes that compute an operator's outputs. Raises `Unsupported` where it stays."""

_REWRITES: Final[dict[str, Rewrite]] = {}
_FAMILIES: Final = ("features", "labels", "linear", "trees")


def rewrites_as(*operators: str) -> Callable[[Rewrite], Rewrite]:
    """Register the rewrite of `operators`."""

    def register(function: Rewrite) -> Rewrite:
        for operator in operators:
            assert operator not in _REWRITES, f"second rewrite of {operator}"
            _REWRITES[operator] = function
        return function

    return register


def rewrites() -> dict[str, Rewrite]:
    """Every rewrite by operator name."""
    for family in _FAMILIES:
        import_module(f"engine.graph.learning.{family}")
    return _REWRITES
