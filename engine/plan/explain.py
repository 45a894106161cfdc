"""Explanation of a loaded model, put together while it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.explanation import Explanation, Operation, PassNote
from engine.graph.ir import Graph, Node, Value
from engine.graph.passes import PassReport
from engine.plan.interpreted import Control, Fallback, every
from engine.plan.measure import Measure
from engine.plan.segments import Plan, Segment
from engine.plan.tensor import Space


@dataclass
class Record:
    """What loading saw; `explain` gives its public form."""

    model: str
    isa: str
    threads: int
    before: tuple[str, ...]
    precision: str = "fp32"
    after: tuple[str, ...] = ()
    passes: tuple[PassNote, ...] = ()
    operations: tuple[Operation, ...] = field(default=())

    @classmethod
    def of(cls, model: str, graph: Graph, isa: str, threads: int) -> Record:
        """Record of a graph as it was read."""
        return cls(model, isa, threads, _lines(graph))

    def finish(self, graph: Graph, reports: Sequence[PassReport], made: Plan) -> None:
        """Add the graph as it will run, the passes' reports, and the plan."""
        self.after = _lines(graph)
        self.passes = tuple(PassNote(r.name, r.changes, tuple(r.notes)) for r in reports)
        self.operations = tuple(op for s in every(made.segments) for op in _operations(s))


def explain(record: Record) -> Explanation:
    """The public form of a record."""
    return Explanation(
        model=record.model,
        isa=record.isa,
        threads=record.threads,
        nodes_before=len(record.before),
        nodes_after=len(record.after),
        passes=record.passes,
        operations=record.operations,
        packed_bytes=sum(operation.packed_bytes for operation in record.operations),
        graph_before=record.before,
        graph_after=record.after,
        precision=record.precision,
    )


def _operations(segment: Segment) -> list[Operation]:
    if isinstance(segment, Fallback):
        node = segment.node
        kernel = "onnx reference implementation"
        return [Operation(node.label, node.key, kernel, False, segment.reason, 0, _shapes(node))]
    if isinstance(segment, Control):
        node = segment.node
        kernel = "control flow in Python"
        return [Operation(node.label, node.key, kernel, True, segment.reason, 0, _shapes(node))]
    if isinstance(segment, Measure):
        return [Operation(segment.label, "packhorse.Sizes", "measured sizes", True, "", 0, ())]
    grouped: dict[int, tuple[Node, list[str], int]] = {}
    for call in segment.calls:
        node, kernels, packed = grouped.get(id(call.node), (call.node, [], 0))
        for tensor in call.tensors(False):
            if tensor.buffer.space is Space.WEIGHTS and tensor.buffer.data is not None:
                packed += tensor.buffer.data.nbytes
        grouped[id(node)] = (node, [*kernels, call.spec.family], packed)
    return [
        Operation(
            node.label,
            node.key,
            " + ".join(kernels),
            True,
            str(node.attribute("precision", "")),
            packed,
            _shapes(node),
        )
        for node, kernels, packed in grouped.values()
    ]


def _shapes(node: Node) -> tuple[tuple[int | str, ...], ...]:
    return tuple(_shape(value) for value in node.outputs if value.shape is not None)


def _shape(value: Value) -> tuple[int | str, ...]:
    return tuple(d.value if d.is_constant else str(d) for d in value.shape or ())


def _lines(graph: Graph) -> tuple[str, ...]:
    return tuple(_line(node) for node in graph.nodes)


def _line(node: Node) -> str:
    inputs = ", ".join("-" if v is None else _text(v) for v in node.inputs)
    outputs = ", ".join(_text(v) for v in node.outputs if v.name)
    shown = {k: v for k, v in node.attributes.items() if isinstance(v, int | float | str | list)}
    details = ", ".join(f"{key}={value}" for key, value in shown.items())
    return f"{outputs} = {node.key}({inputs})" + (f" {{{details}}}" if details else "")


def _text(value: Value) -> str:
    shape = "?" if value.shape is None else "x".join(map(str, _shape(value)))
    return f"{value.name}:{value.dtype}[{shape}]"
