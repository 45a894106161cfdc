"""The offline phase: from a model's file to weights in memory and programs ready to be linked."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from engine.codegen.target import Target
from engine.errors import EngineError, InputError
from engine.graph.batching import BatchAxis, batch_axis
from engine.graph.inference import Guard, infer
from engine.graph.ir import AnyArray, Graph, Value, subgraphs
from engine.graph.passes import PassReport
from engine.graph.passes.rewrite import all_graphs
from engine.graph.reader import read
from engine.kernels.pairs import INSTRUCTION
from engine.optimise import optimise, reduce
from engine.plan.explain import Record, explain
from engine.plan.interpreted import Control, Fallback, every
from engine.plan.measure import Measure, Requirement
from engine.plan.options import PLAIN, PlanOptions
from engine.plan.packing import Known, Pieces, learning, reusing
from engine.plan.prepared import Prepared
from engine.plan.ragged import RaggedProgram
from engine.plan.ragged_sealing import ragged_program
from engine.plan.segments import Plan, Segment, plan, seal
from engine.plan.token_view import Unfit
from engine.plan.weights import gather, packed_names, pieces_of


@dataclass(frozen=True)
class _Planned:
    """A model that was read, optimised and planned; its weights are still single arrays."""

    name: str
    graph: Graph
    guards: Sequence[Guard]
    reports: list[PassReport]
    batching: BatchAxis
    record: Record
    plan: Plan


def prepare(
    source: str | Path | bytes,
    target: Target,
    threads: int,
    report: Callable[[str], None],
    options: PlanOptions = PLAIN,
) -> Prepared:
    """Read, optimise, plan and pack a model; `report` is told when planning begins.

    Raises ModelError for a model that cannot be run, EngineError where memory does not suffice.
    """
    try:
        return _packed(_planned(source, target, threads, report, options, {}))
    except MemoryError as error:
        raise EngineError(f"{source!s:.200}: not enough memory for the weights") from error


def prepare_again(
    source: str | Path | bytes,
    target: Target,
    threads: int,
    options: PlanOptions,
    replaced: Mapping[str, AnyArray],
    known: Known,
) -> tuple[Prepared, Pieces]:
    """As `prepare`, with other values for some constants; packs only what is not `known`.

    The second result tells where packed bytes lie in the new memory. Raises InputError for values
    that do not fit.
    """
    with reusing(known):
        made = _planned(source, target, threads, lambda _: None, options, replaced)
    pieces, _ = pieces_of(made.plan.weights)
    return _packed(made), pieces


def packed_pieces(
    source: str | Path | bytes, target: Target, threads: int, options: PlanOptions
) -> tuple[Pieces, int]:
    """Where packed bytes lie in the memory of a model that was prepared, and the bytes it takes.

    Planning is deterministic; this plans once more and packs nothing.
    """
    with learning():
        made = _planned(source, target, threads, lambda _: None, options, {})
    return pieces_of(made.plan.weights)


def _packed(made: _Planned) -> Prepared:
    """The planned model with its weights in one block and its programs sealed."""
    graph, planned = made.graph, made.plan
    made.record.finish(graph, made.reports, planned)
    packed = packed_names(planned.weights)
    _release(graph, planned.segments)
    weights, offsets = gather(planned.weights)
    measures, rest = _leading(graph, planned.segments)
    ragged = _ragged(made, rest, offsets)
    how = ragged if isinstance(ragged, str) else ragged.summary
    return Prepared(
        name=made.name,
        inputs=tuple(graph.inputs),
        outputs=tuple(graph.outputs),
        segments=seal(rest, offsets),
        measures=tuple(measures),
        guards=tuple(
            Requirement(guard.left, guard.right, guard.message, guard.when)
            for guard in made.guards
            if guard.when is not None
        ),
        explanation=replace(
            explain(made.record), ragged=not isinstance(ragged, str), ragged_reason=how
        ),
        batching=(made.batching.independent, made.batching.reason),
        external=graph.external,
        packed=packed,
        weights=weights,
        ragged=ragged,
    )


def _ragged(
    made: _Planned, segments: Sequence[Segment], offsets: Mapping[int, int]
) -> RaggedProgram | str:
    """The model's program for sequences of different lengths, or why there is none."""
    try:
        return ragged_program(made.graph, segments, made.batching, offsets)
    except Unfit as reason:
        return str(reason)


def _planned(
    source: str | Path | bytes,
    target: Target,
    threads: int,
    report: Callable[[str], None],
    options: PlanOptions,
    replaced: Mapping[str, AnyArray],
) -> _Planned:
    graph = read(source)
    name = Path(source).stem if isinstance(source, str | Path) else graph.name or "model"
    replace_constants(graph, replaced, name)
    infer(graph)
    record = Record.of(name, graph, target.name, threads)
    axis = batch_axis(graph)
    reports = optimise(graph)
    try:
        native = options.arithmetic == INSTRUCTION
        reduced, reduction = reduce(graph, options.precision, native)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    reports += reduced
    record.precision = options.precision.describe(
        len(reduction.products), len(reduction.whole), len(reduction.weights), native
    )
    guards = infer(graph)
    report("planning")
    return _Planned(
        name, graph, guards, reports, axis, record, plan(graph, target, threads, options)
    )


def replace_constants(graph: Graph, replaced: Mapping[str, AnyArray], model: str) -> None:
    """Give constants of the main graph other values, of the same data type and shape.

    Raises InputError where there is no such constant or an array does not fit.
    """
    if not replaced:
        return
    known = {value.name: value for value in _constants(graph)}
    for name, array in replaced.items():
        value = known.get(name)
        if value is None:
            near = get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "names are those of the file"
            raise InputError(f"{model}: there is no weight {name!r}; {hint}")
        assert value.data is not None
        if array.dtype != value.data.dtype or array.shape != value.data.shape:
            raise InputError(
                f"{model}: weight {name!r} is {value.data.dtype} {list(value.data.shape)}; "
                f"the update is {array.dtype} {list(array.shape)}"
            )
        value.data = array


def _constants(graph: Graph) -> Iterator[Value]:
    """Constants of a graph and of its subgraphs."""
    yield from (value for value in graph.values() if value.data is not None)
    for node in graph.nodes:
        for inner in subgraphs(node):
            yield from _constants(inner)


def _leading(graph: Graph, segments: Sequence[Segment]) -> tuple[list[Measure], Sequence[Segment]]:
    """Measures of the model's inputs that come first, and the segments behind them."""
    inputs = set(map(id, graph.inputs))
    symbols = {s for value in graph.inputs for dim in value.shape or () for s in dim.symbols}
    found: list[Measure] = []
    for segment in segments:
        if not isinstance(segment, Measure):
            break
        if not all(v is None or v.data is not None or id(v) in inputs for v in segment.inputs):
            break
        if not all(dim.symbols <= symbols for dim in segment.shape):
            break
        symbols |= {name for pair in segment.symbols for name in pair if name}
        found.append(segment)
    return found, segments[len(found) :]


def _release(graph: Graph, segments: Sequence[Any]) -> None:
    """Let go of constants that were packed: all but those that Python still hands out.

    Values also forget their producers, through which one output would keep the whole graph.
    """
    graphs = list(all_graphs(graph))
    kept = set(map(id, graph.outputs))
    for segment in every(segments):
        if isinstance(segment, Fallback):
            kept |= set(map(id, segment.kernel.operands))
        elif isinstance(segment, Control):
            kept |= set(map(id, segment.node.inputs))
            for body, _ in segment.bodies.values():
                kept |= set(map(id, body.outputs))
        elif isinstance(segment, Measure):
            kept |= set(map(id, segment.inputs))
    for inner in graphs:
        for value in inner.values():
            value.producer = None
            if id(value) not in kept:
                value.data = None


_WORTH_COLLECTING: Final = 16 << 20
"""Bytes of weights from which on cycles are collected at once. A collection walks every object of
the process, 65 to 200 ms, which is long beside the loading of a small model, and finds little."""


def trim(weights: int) -> None:
    """Return what preparing a model of so many bytes of `weights` left behind to the system.

    Constants are gone by now, but the C library keeps their memory: 28 MiB after MobileNetV2, with
    14 MiB of weights. Giving it back takes 0.5 to 18 ms, less than a hundredth of loading.
    """
    if weights >= _WORTH_COLLECTING:
        # Nodes and values of the graph refer to each other.
        gc.collect()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
