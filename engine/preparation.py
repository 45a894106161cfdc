"""The offline phase: from a model's file to weights in memory and programs ready to be linked."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.codegen.target import Target
from engine.errors import EngineError
from engine.graph.batching import batch_axis
from engine.graph.inference import infer
from engine.graph.ir import Graph
from engine.graph.reader import read
from engine.optimise import optimise
from engine.plan.explain import Record, explain
from engine.plan.interpreted import Control, Fallback, every
from engine.plan.prepared import Prepared
from engine.plan.segments import plan, seal
from engine.plan.weights import gather


def prepare(
    source: str | Path | bytes,
    target: Target,
    threads: int,
    report: Callable[[str], None],
    winograd: bool = True,
) -> Prepared:
    """Read, optimise, plan and pack a model; `report` is told when planning begins.

    Raises ModelError for a model that cannot be run, EngineError where memory does not suffice.
    """
    graph = read(source)
    name = Path(source).stem if isinstance(source, str | Path) else graph.name or "model"
    infer(graph)
    record = Record.of(name, graph, target.name, threads)
    axis = batch_axis(graph)
    reports = optimise(graph)
    guards = infer(graph)
    report("planning")
    try:
        made = plan(graph, target, threads, winograd)
        record.finish(graph, reports, made)
        _release(graph, made.segments)
        weights, offsets = gather(made.weights)
    except MemoryError as error:
        raise EngineError(f"{name}: not enough memory for the weights") from error
    return Prepared(
        name=name,
        inputs=tuple(graph.inputs),
        outputs=tuple(graph.outputs),
        segments=seal(made.segments, offsets),
        guards=tuple((g.left, g.right, g.message) for g in guards if g.subgraph is None),
        explanation=explain(record),
        batching=(axis.independent, axis.reason),
        external=graph.external,
        weights=weights,
    )


def _release(graph: Graph, segments: Sequence[Any]) -> None:
    """Let go of constants that were packed: all but those that Python still hands out.

    Values also forget their producers, through which one output would keep the whole graph.
    """
    graphs = [graph]
    kept = set(map(id, graph.outputs))
    for segment in every(segments):
        if isinstance(segment, Fallback):
            kept |= set(map(id, segment.kernel.operands))
        elif isinstance(segment, Control):
            kept |= set(map(id, segment.node.inputs))
            for body, _ in segment.bodies.values():
                graphs.append(body)
                kept |= set(map(id, body.outputs))
    for inner in graphs:
        for value in inner.values():
            value.producer = None
            if id(value) not in kept:
                value.data = None


def trim() -> None:
    """Return what preparing left behind to the system, where the C library can."""
    # Nodes and values of the graph refer to each other.
    gc.collect()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
