"""Segments that Python runs: fallbacks to the reference implementation, and control flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.graph.ir import Graph, Node

if TYPE_CHECKING:
    from engine.runtime.reference import ReferenceKernel


@dataclass(eq=False)
class Fallback:
    """One node evaluated by the reference implementation, with the reason."""

    node: Node
    kernel: ReferenceKernel
    reason: str


@dataclass(eq=False)
class Control:
    """A node with subgraphs that is no part of a program, with the reason.

    Each of its bodies, by attribute name, is planned like a graph.
    """

    node: Node
    bodies: dict[str, tuple[Graph, list[Any]]]
    reason: str


def every(segments: Sequence[Any]) -> Iterator[Any]:
    """All segments in order, each control-flow node before its bodies."""
    for segment in segments:
        yield segment
        if isinstance(segment, Control):
            for _, inner in segment.bodies.values():
                yield from every(inner)
