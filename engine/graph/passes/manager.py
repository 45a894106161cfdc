"""Running passes: shapes inferred before and after, structure verified in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.graph.inference import infer
from engine.graph.ir import Graph
from engine.graph.passes.rewrite import update_captures
from engine.graph.verify import GraphError, verify


@dataclass(frozen=True)
class PassReport:
    """What one run of a pass did.

    `changes` counts rewrites. `notes` say, for places that nearly matched, why they were left.
    """

    name: str
    changes: int
    notes: list[str] = field(default_factory=list)


Pass = Callable[[Graph], PassReport]
"""A pass rewrites the graph, its subgraphs too, in place."""


def run(graph: Graph, passes: Sequence[Pass], rounds: int = 1) -> list[PassReport]:
    """Run passes in order, repeated while they change something, at most `rounds` times.

    Notes of an earlier round are superseded by the last round's. Raises GraphError where a pass
    breaks the graph, which is a defect of the pass, and ModelError where shapes contradict.
    """
    interface = _interface(graph)
    infer(graph)
    verify(graph)
    reports: list[PassReport] = []
    for _ in range(rounds):
        current: list[PassReport] = []
        for run_pass in passes:
            report = run_pass(graph)
            current.append(report)
            if report.changes:
                update_captures(graph)
                _check(graph, report.name, interface)
                infer(graph)
        reports = _merged(reports, current)
        if not any(report.changes for report in current):
            break
    return reports


def _interface(graph: Graph) -> tuple[list[str], list[str]]:
    return [v.name for v in graph.inputs], [v.name for v in graph.outputs]


def _check(graph: Graph, name: str, interface: tuple[list[str], list[str]]) -> None:
    try:
        verify(graph)
        if _interface(graph) != interface:
            raise GraphError("names of the graph's inputs or outputs changed")
    except GraphError as error:
        raise GraphError(f"after pass {name}: {error}") from error


def _merged(earlier: list[PassReport], current: list[PassReport]) -> list[PassReport]:
    if not earlier:
        return current
    return [
        PassReport(now.name, before.changes + now.changes, now.notes)
        for before, now in zip(earlier, current, strict=True)
    ]
