"""Einsum as products of pairs of operands.

- A label that an operand repeats is its diagonal: ``sum_j x[i, j] [i = j]``.
- A label that only one operand has and the result has not is summed first.
- Two operands with batch labels t, own labels a and b and contracted labels c are
  ``MatMul(A[t, a, c], B[t, c, b])``; without c, and for what the dot kernel does not compute, where
  it is small, ``sum_c A[t, a, 1, c] B[t, 1, b, c]``.

Operands are taken from left to right. Preconditions: the ranks are known. The labels that an
ellipsis stands for broadcast; they stay apart, all others may be joined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np

from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs

_SMALL: Final = 1 << 20
"""Products of at most this many elements are written down where there is no dot kernel."""


def einsum(graph: Graph) -> PassReport:
    """Rewrite every Einsum of known ranks, in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key == "Einsum":
                reason = _rewrite(rewriter, node)
                if reason:
                    notes.append(f"{node.label}: Einsum stays: {reason}")
        changes += rewriter.finish()
    return PassReport("einsum", changes, notes)


def parse(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]] | None:
    """Labels of every operand and of the result; None for an equation that does not fit.

    Labels of an ellipsis are ``.0``, ``.1``, ... counted from its last axis.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        return None
    operands = []
    for term, rank in zip(terms, ranks, strict=True):
        hidden = rank - len(term.replace("...", ""))
        if hidden < 0 or (hidden and "..." not in term):
            return None
        operands.append(_labels(term, hidden))
    dots = max((sum(label[0] == "." for label in labels) for labels in operands), default=0)
    if arrow:
        result = _labels(right, dots)
    else:
        flat = [label for labels in operands for label in labels if label[0] != "."]
        result = _labels("...", dots) + sorted(x for x in set(flat) if flat.count(x) == 1)
    known = {label for labels in operands for label in labels}
    if len(set(result)) != len(result) or not set(result) <= known:
        return None
    return operands, result


def _labels(term: str, hidden: int) -> list[str]:
    before, dots, after = term.partition("...")
    middle = [f".{axis}" for axis in reversed(range(hidden))] if dots else []
    return [*before, *middle, *after]


@dataclass
class _Term:
    """An operand: its value, a label per axis, and the sizes that are constant."""

    value: Value
    labels: list[str]


class _Writer:
    """Nodes that take the place of one Einsum."""

    def __init__(self, rewriter: Rewriter, node: Node, sizes: dict[str, int | None]) -> None:
        self.rewriter = rewriter
        self.node = node
        self.sizes = sizes
        self.nodes: list[Node] = []
        self.numbers = count()

    def emit(
        self, op: str, *inputs: Value | list[int], version: int = 13, **attributes: Any
    ) -> Value:
        """Output of a new node; a list becomes a constant."""
        made = self.rewriter.value(f"{self.node.label}_{next(self.numbers)}")
        values = [
            self.rewriter.constant("numbers", item) if isinstance(item, list) else item
            for item in inputs
        ]
        self.nodes.append(Node(op, list(values), [made], attributes, "", version))
        return made

    def size(self, term: _Term, labels: list[str]) -> Value:
        """The product of some sizes of a term, a vector of one element."""
        shape = self.emit("Shape", term.value, version=15)
        picked = self.emit("Gather", shape, [term.labels.index(label) for label in labels])
        return self.emit("ReduceProd", picked, [0], version=18, keepdims=1)

    def arranged(self, term: _Term, labels: list[str]) -> Value:
        """The term with its axes in the order of `labels`, of length 1 where it has none."""
        own = [label for label in labels if label in term.labels]
        perm = [term.labels.index(label) for label in own]
        value = term.value
        if perm != list(range(len(perm))):
            value = self.emit("Transpose", value, perm=perm)
        missing = [axis for axis, label in enumerate(labels) if label not in term.labels]
        return self.emit("Unsqueeze", value, missing) if missing else value

    def summed(self, term: _Term, labels: list[str]) -> _Term:
        """The term summed over some of its labels."""
        if not labels:
            return term
        axes = [term.labels.index(label) for label in labels]
        value = self.emit("ReduceSum", term.value, axes, keepdims=0)
        return _Term(value, [label for label in term.labels if label not in labels])

    def diagonal(self, term: _Term) -> _Term:
        """The term without repeated labels."""
        for label in dict.fromkeys(term.labels):
            while term.labels.count(label) > 1:
                first = term.labels.index(label)
                second = term.labels.index(label, first + 1)
                labels = list(term.labels)
                labels[second] = " "
                length = self.emit("Gather", self.emit("Shape", term.value, version=15), [first])
                scalar = self.emit("Squeeze", length, [0])
                zero, one = (
                    self.rewriter.constant("n", np.array(number, np.int64)) for number in (0, 1)
                )
                steps = self.emit("Range", zero, scalar, one, version=11)
                rank = len(labels)
                along, across = (
                    self.emit("Unsqueeze", steps, [a for a in range(rank) if a != axis])
                    for axis in (first, second)
                )
                equal = self.emit("Equal", along, across)
                mask = self.emit("CastLike", equal, term.value, version=15)
                value = self.emit("Mul", term.value, mask, version=14)
                term = self.summed(_Term(value, labels), [" "])
        return term

    def product(self, a: _Term, b: _Term, later: set[str]) -> _Term:
        """The contraction of two terms; `later` are the labels that others still read."""
        a = self.summed(a, [x for x in a.labels if x not in b.labels and x not in later])
        b = self.summed(b, [x for x in b.labels if x not in a.labels and x not in later])
        both = [label for label in a.labels if label in b.labels]
        batch = [label for label in both if label in later]
        batch += [x for x in (*a.labels, *b.labels) if x[0] == "." and x not in batch]
        batch = sorted(
            set(batch), key=lambda x: (x[0] != ".", -int(x[1:]) if x[0] == "." else 0, x)
        )
        inner = [label for label in both if label not in batch]
        rows = [x for x in a.labels if x not in batch and x not in inner]
        columns = [x for x in b.labels if x not in batch and x not in inner]
        if not inner or self._is_written_down([*batch, *rows, *columns, *inner]):
            labels = [*batch, *rows, *columns, *inner]
            value = self.emit("Mul", self.arranged(a, labels), self.arranged(b, labels), version=14)
            return self.summed(_Term(value, labels), inner)
        left = self._matrix(a, batch, rows, inner)
        right = self._matrix(b, batch, inner, columns)
        value = self.emit("MatMul", left, right)
        labels = [*batch, *rows, *columns]
        if len(rows) == len(columns) == 1:
            return _Term(value, labels)
        whole = self.emit("Shape", value, version=15, end=len(batch))
        sizes = [whole]
        for term, group in ((a, rows), (b, columns)):
            if group:
                shape = self.emit("Shape", term.value, version=15)
                sizes.append(self.emit("Gather", shape, [term.labels.index(x) for x in group]))
        target = self.emit("Concat", *sizes, axis=0)
        return _Term(self.emit("Reshape", value, target, version=14, allowzero=1), labels)

    def _is_written_down(self, labels: list[str]) -> bool:
        """Whether the dot kernel does not serve and the product is small enough to be written."""
        dtype = self.node.inputs[0].dtype if self.node.inputs[0] is not None else None
        if dtype == np.float32:
            return False
        sizes = [self.sizes.get(label) for label in labels]
        return (
            all(size is not None for size in sizes) and math.prod(s or 0 for s in sizes) <= _SMALL
        )

    def _matrix(self, term: _Term, batch: list[str], rows: list[str], columns: list[str]) -> Value:
        """The term as [batch..., rows, columns], each of these two one axis."""
        labels = [*batch, *rows, *columns]
        value = self.arranged(term, labels)
        if len(rows) == len(columns) == 1:
            return value
        sizes = [self.emit("Shape", value, version=15, end=len(batch))]
        one = self.rewriter.constant("one", [1])
        sizes += [self.size(term, group) if group else one for group in (rows, columns)]
        target = self.emit("Concat", *sizes, axis=0)
        return self.emit("Reshape", value, target, version=14, allowzero=1)


def _rewrite(rewriter: Rewriter, node: Node) -> str:
    values = [value for value in node.inputs if value is not None]
    if any(value.shape is None or value.dtype is None for value in values):
        return "a rank is not known"
    parsed = parse(node.attribute("equation"), [value.rank for value in values])
    if parsed is None:
        return "its equation does not fit its operands"
    operands, result = parsed
    sizes: dict[str, int | None] = {}
    for value, labels in zip(values, operands, strict=True):
        for label, dim in zip(labels, value.shape or (), strict=True):
            if dim.is_constant:
                sizes[label] = max(sizes.get(label) or 1, dim.value)
    writer = _Writer(rewriter, node, sizes)
    terms = [
        writer.diagonal(_Term(value, list(labels)))
        for value, labels in zip(values, operands, strict=True)
    ]
    total = terms[0]
    for place, term in enumerate(terms[1:], 1):
        later = {label for other in terms[place + 1 :] for label in other.labels}
        total = writer.product(total, term, later | set(result))
    total = writer.summed(total, [label for label in total.labels if label not in result])
    final = writer.arranged(total, result)
    writer.nodes.append(Node("Identity", [final], list(node.outputs), version=16))
    rewriter.replace(node, writer.nodes)
    return ""
