"""Partition of a graph into segments: native programs, and nodes on the fallback path.

Ready nodes are lowered into the open native segment for as long as any can be; only when nothing
but fallback nodes is ready does the segment close and do those run. A model with native operators
alone is one segment. Sizes that depend on data are measured before the segment that needs them:
what they are measured of must have left the open segment by then. Values whose elements are dim
expressions (`Value.dims`) belong to no segment: they follow from the sizes and are written out only
where a kernel or a fallback reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from engine.codegen.target import Target
from engine.errors import ModelError
from engine.graph.ir import Graph, Node, Value, subgraphs
from engine.plan.binding import Sealed
from engine.plan.interpreted import Control, Fallback, every
from engine.plan.lower.branch import inlined
from engine.plan.lower.convolution import request_halos
from engine.plan.lower.movement import request_windows
from engine.plan.lower.spacing import request_gaps
from engine.plan.lowering import Lowering, NoKernel, Spare, check_symbols, copy, lowering_of
from engine.plan.measure import Measure, is_measure, measured_inputs
from engine.plan.options import PLAIN, PlanOptions
from engine.plan.program import Program
from engine.plan.tensor import ZERO, Buffer, Space, Tensor, product, row_major
from engine.runtime.reference import ReferenceKernel
from engine.tuning import Tuning

Segment = Program | Fallback | Control | Measure
Runnable = Sealed | Fallback | Control | Measure


@dataclass(eq=False)
class Plan:
    """A model's segments in order, and the weights that its programs read."""

    segments: list[Segment]
    weights: list[Buffer]

    def programs(self) -> list[Program]:
        """Every native program, those of subgraphs too."""
        return [segment for segment in every(self.segments) if isinstance(segment, Program)]


def seal(segments: Sequence[Segment], weights: Mapping[int, int]) -> list[Runnable]:
    """The segments with every program sealed, those of subgraphs too.

    `weights` gives the byte offset of each weight by buffer index.
    """
    found: list[Runnable] = []
    for segment in segments:
        if isinstance(segment, Program):
            found.append(segment.seal(weights))
        elif isinstance(segment, Control):
            bodies = {
                name: (graph, seal(inner, weights))
                for name, (graph, inner) in segment.bodies.items()
            }
            found.append(Control(segment.node, bodies, segment.reason))
        else:
            found.append(segment)
    return found


@dataclass(eq=False)
class _Open:
    """The native segment being filled."""

    low: Lowering
    inputs: list[Value] = field(default_factory=list)
    made: dict[int, Value] = field(default_factory=dict)


class Planner:
    """Lowers one graph; use `plan`."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        threads: int,
        weights: list[Buffer],
        spare: Spare,
        tuning: Tuning,
        arithmetic: str = "",
        symbols: frozenset[str] = frozenset(),
    ) -> None:
        self.graph = graph
        self.target = target
        self.threads = threads
        self.weights = weights
        self.spare = spare
        self.tuning = tuning
        self.arithmetic = arithmetic
        self.segments: list[Segment] = []
        self.reasons: dict[int, str] = {}
        outside = (*graph.inputs, *graph.captures)
        self.available = {id(value) for value in outside}
        self.available |= {id(v) for v in graph.values() if v.is_constant or v.dims is not None}
        self.symbols = {s for value in outside for d in value.shape or () for s in d.symbols}
        self.symbols |= symbols

    def plan(self) -> list[Segment]:
        """Partition and lower the whole graph."""
        pending = [node for node in self.graph.nodes if not _follows_from_sizes(node)]
        opened = self._open()
        while pending:
            pending = self._measure(opened, pending)
            done, pending = self._sweep(opened, pending)
            if done:
                continue
            self._close(opened, pending)
            pending = self._fall_back(pending)
            opened = self._open()
        self._close(opened, [])
        return self.segments

    def _open(self) -> _Open:
        low = Lowering(
            self.target,
            weights=self.weights,
            threads=self.threads,
            tuning=self.tuning,
            spare=self.spare,
            symbols=self.symbols,
            arithmetic=self.arithmetic,
        )
        for graph in inlined(self.graph):
            request_halos(graph, low)
            request_windows(graph, low)
            request_gaps(graph, low)
        return _Open(low)

    def _measure(self, opened: _Open, pending: list[Node]) -> list[Node]:
        """Measure what can be before the open segment; the nodes that are left."""
        left = []
        for node in pending:
            known = is_measure(node) and self._is_ready(node) and self._has_sizes(node)
            if not known or any(id(value) in opened.made for value in _reads(node)):
                left.append(node)
                continue
            measure = Measure.of(node)
            self.segments.append(measure)
            self.symbols |= {name for pair in measure.symbols for name in pair if name}
        if len(left) < len(pending):
            # What was refused for an unknown size may be lowered now.
            self.reasons.clear()
        return left

    def _is_ready(self, node: Node) -> bool:
        return all(id(value) in self.available for value in _reads(node))

    def _has_sizes(self, node: Node) -> bool:
        """Whether the sizes of what a node reads are known by the time it is reached."""
        read = [v for v in node.inputs if v is not None] if is_measure(node) else _reads(node)
        dims = [d for v in read for d in (*(v.shape or ()), *(v.dims or ()))]
        return all(dim.symbols <= self.symbols for dim in dims)

    def _sweep(self, opened: _Open, pending: list[Node]) -> tuple[bool, list[Node]]:
        """Lower every ready node that has a kernel; whether there was one, and what is left."""
        left = [node for node in pending if not self._takes(opened, node)]
        return len(left) < len(pending), left

    def _takes(self, opened: _Open, node: Node) -> bool:
        tried = id(node) in self.reasons or is_measure(node)
        return not tried and self._is_ready(node) and self._lower(opened, node)

    def _lower(self, opened: _Open, node: Node) -> bool:
        low = opened.low
        entered = [v for v in _reads(node) if self._enters(opened, v)]
        before = (len(low.calls), len(low.buffers), len(low.weights))
        known, dense = dict(low.tensors), dict(low.dense)
        low.node = node
        try:
            if not subgraphs(node):
                check_symbols(node, self.symbols)
            for place, value in enumerate(entered, len(opened.inputs)):
                low.tensors[id(value)] = _argument(value, Space.INPUT, place)
            _apply(node, low)
        except NoKernel as verdict:
            del low.calls[before[0] :], low.buffers[before[1] :], low.weights[before[2] :]
            low.tensors, low.dense = known, dense
            self.reasons[id(node)] = str(verdict)
            return False
        opened.inputs.extend(entered)
        for value in node.outputs:
            if value.name or id(value) in low.tensors:
                opened.made[id(value)] = value
                self.available.add(id(value))
        return True

    def _enters(self, opened: _Open, value: Value) -> bool:
        return (
            id(value) not in opened.low.tensors
            and not value.is_constant
            and value.dims is None
            and id(value) not in opened.made
        )

    def _fall_back(self, pending: list[Node]) -> list[Node]:
        """Give every ready node that has no kernel a segment of its own.

        Those that wait for nothing but a size do so only where no other node can run.
        """
        if any(is_measure(n) and self._is_ready(n) and self._has_sizes(n) for n in pending):
            return pending
        ready = [n for n in pending if id(n) in self.reasons and self._is_ready(n)]
        chosen = [n for n in ready if self._has_sizes(n)] or ready
        running = {id(n) for n in chosen}
        left = [n for n in pending if id(n) not in running]
        for node in chosen:
            self.segments.append(self._segment(node))
            for value in node.outputs:
                self.available.add(id(value))
                self.symbols |= {s for dim in value.shape or () for s in dim.symbols}
        if not chosen:
            names = ", ".join(node.label for node in left[:3])
            raise ModelError(f"{self.graph.name}: nodes {names} wait for values nobody computes")
        # A node that was refused for an unknown size may be lowered now that more are known.
        for node in left:
            self.reasons.pop(id(node), None)
        return left

    def _segment(self, node: Node) -> Segment:
        if not subgraphs(node):
            return Fallback(node, ReferenceKernel(node), self.reasons[id(node)])
        bodies = {}
        for name, graph in node.attributes.items():
            if isinstance(graph, Graph):
                inner = Planner(
                    graph,
                    self.target,
                    self.threads,
                    self.weights,
                    self.spare,
                    self.tuning,
                    self.arithmetic,
                    frozenset(self.symbols),
                )
                bodies[name] = (graph, inner.plan())
        return Control(node, bodies, self.reasons[id(node)])

    def _close(self, opened: _Open, pending: Sequence[Node]) -> None:
        """End the segment; what later nodes or the caller read becomes an output."""
        low = opened.low
        wanted = {id(v) for node in pending for v in _reads(node)}
        wanted |= {id(v) for v in self.graph.outputs}
        outputs = [value for key, value in opened.made.items() if key in wanted]
        for index, value in enumerate(outputs):
            _export(low, value, index)
        if low.calls:
            inline_ns = self.tuning.inline_ns
            program = Program(
                low.calls, opened.inputs, outputs, low.buffers, low.choices, inline_ns
            )
            self.segments.append(program)


SPARE_BYTES: Final = 96 << 20
SPARE_SHARE: Final = 0.25
"""Memory for second packings (Winograd's transformed filters): the larger of a constant and a share
of the model's weights. The constant lets a network for text lines (CRNN) have all of its filters,
93 MiB: its last layer on a line of 320 columns takes 8.6 ms instead of 15.0 as a direct sum, on one
core of a Xeon of the Cascade Lake generation."""


def plan(graph: Graph, target: Target, threads: int, options: PlanOptions = PLAIN) -> Plan:
    """Segments of a graph for a target; `threads` only influences schedules."""
    weights: list[Buffer] = []
    held = sum(value.data.nbytes for value in graph.values() if value.data is not None)
    spare = Spare(max(SPARE_BYTES, int(held * SPARE_SHARE)) if options.winograd else 0)
    planner = Planner(graph, target, threads, weights, spare, options.tuning, options.arithmetic)
    return Plan(planner.plan(), weights)


def _apply(node: Node, low: Lowering) -> None:
    """Lower a node; one whose parameters break the operator's rules has no kernel.

    An axis out of range or a window of 2**60 elements is known only here, and the reference
    implementation says what is wrong with it when it runs.
    """
    try:
        lowering_of(node)(node, low)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise NoKernel(f"its attributes or sizes do not fit {node.key}: {error}") from error


def _follows_from_sizes(node: Node) -> bool:
    if is_measure(node):
        return False
    return all(value.dims is not None or not value.name for value in node.outputs)


def _reads(node: Node) -> list[Value]:
    read = measured_inputs(node) if is_measure(node) else node.inputs
    found = [value for value in read if value is not None]
    for subgraph in subgraphs(node):
        found.extend(subgraph.captures)
    return list({id(value): value for value in found}.values())


def _argument(value: Value, space: Space, index: int) -> Tensor:
    """Contiguous tensor in memory that the caller provides."""
    if value.shape is None or value.dtype is None or value.dtype == object:
        raise NoKernel(f"{value.name} is no numeric tensor of known rank")
    size = product(value.shape) * value.dtype.itemsize
    buffer = Buffer(space, index, size, value.name)
    return Tensor(value.dtype, value.shape, row_major(value.shape), buffer)


def _export(low: Lowering, value: Value, index: int) -> None:
    """Let the segment write `value` to output `index`: in place where it has a buffer to itself."""
    tensor = low.tensors[id(value)]
    whole = (
        tensor.buffer.space is Space.ARENA
        and tensor.is_contiguous
        and tensor.offset == ZERO
        and tensor.buffer.size == tensor.size * tensor.itemsize
    )
    if whole:
        tensor.buffer.space, tensor.buffer.index = Space.OUTPUT, index
    else:
        copy(low, tensor, _argument(value, Space.OUTPUT, index))
