"""The first node whose result differs from a reference's.

Values inside a network are made outputs of a changed model. With all of them as outputs at once,
one run tells; but then the engine fuses nothing, and a fault in a fused kernel hides. So where that
run shows no difference, models cut off after a value are tried, in which everything before the
value is fused as in the whole, by bisection over the values in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

import engine
from api.cli.verification.agreement import Difference, Tolerance, compare
from api.cli.verification.references import MAKERS


@dataclass(frozen=True)
class Divergence:
    """The first node that differs, its output's difference, and what runs it.

    `fused` says that the difference shows only together with the nodes before it, in one kernel.
    `kernels` are those of the operation that gives the value.
    """

    node: str
    op: str
    difference: Difference
    kernels: str
    fused: bool

    def describe(self) -> str:
        """One sentence."""
        where = f"node {self.node!r} ({self.op}), output {self.difference.output!r}"
        how = ", only when fused with the nodes before it" if self.fused else ""
        return f"{where}: {self.difference.describe()}{how}; kernels: {self.kernels or 'none'}"


class Search:
    """Looks for the first differing node of a model, of the whole file's main graph."""

    def __init__(
        self,
        model: onnx.ModelProto,
        reference: str,
        tolerance: Tolerance,
        threads: int | None,
        isa: str | None,
    ) -> None:
        self._model = model
        self._reference = reference
        self._tolerance = tolerance
        self._threads = threads
        self._isa = isa
        self._nodes = {name: node for node in model.graph.node for name in node.output if name}

    def first(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> Divergence | None:
        """The first node that differs on these inputs, among those that `outputs` depend on.

        None where no value inside differs. Raises ReferenceRunError where the reference cannot give
        values inside the network.
        """
        names = self._ancestors(outputs)
        wanted = MAKERS[self._reference](self._with_outputs(names), names).run(inputs)
        for name, difference, session in self._everywhere(names, inputs, wanted):
            if not difference.equal:
                return self._divergence(name, difference, session, fused=False)
        return self._bisect(names, inputs, wanted)

    def _everywhere(
        self, names: list[str], inputs: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> Iterator[tuple[str, Difference, engine.Session]]:
        session = self._load(names)
        found = session.run(inputs)
        for name in names:
            yield name, compare(name, wanted[name], found[name], self._tolerance), session

    def _bisect(
        self, names: list[str], inputs: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> Divergence | None:
        """The first value after which a model cut off differs, provided that it stays so."""
        found: Divergence | None = None
        low, high = 0, len(names) - 1
        while low <= high:
            middle = (low + high) // 2
            name = names[middle]
            session = self._load([name])
            difference = compare(name, wanted[name], session.run(inputs)[name], self._tolerance)
            if difference.equal:
                low = middle + 1
            else:
                found = self._divergence(name, difference, session, fused=True)
                high = middle - 1
        return found

    def _divergence(
        self, name: str, difference: Difference, session: engine.Session, fused: bool
    ) -> Divergence:
        node = self._nodes[name]
        labels = {node.name or next(filter(None, node.output)), name}
        operations = session.explain().operations
        kernels = [o.kernel for o in operations if o.node in labels] or [
            o.kernel for o in operations[-1:] if fused
        ]
        label = node.name or next(filter(None, node.output))
        return Divergence(label, node.op_type, difference, ", ".join(kernels), fused)

    def _ancestors(self, outputs: Sequence[str]) -> list[str]:
        """Values that the outputs depend on, and these, in the order of the file's nodes."""
        needed = set(outputs)
        for node in reversed(self._model.graph.node):
            if needed & set(node.output):
                needed |= set(_reads(node))
        return [name for name in self._nodes if name in needed]

    def _with_outputs(self, names: Sequence[str]) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        known = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
        infos = [known.get(n, onnx.helper.make_empty_tensor_value_info(n)) for n in names]
        del model.graph.output[:]
        model.graph.output.extend(infos)
        return model

    def _load(self, names: Sequence[str]) -> engine.Session:
        content = self._with_outputs(names).SerializeToString()
        return engine.load(content, self._threads, isa=self._isa)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node or its subgraphs read; names of subgraphs' own values do no harm."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (info.name for info in graph.output)
            for inner in graph.node:
                yield from _reads(inner)
