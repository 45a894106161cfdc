"""Lowering of If whose condition follows from sizes: both branches in one program.

The calls of a branch have work items only for the sizes that take it, so that binding decides and
a run skips the other branch without a decision of its own. Each branch writes the outputs of the
If.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.graph.dims import Dim
from engine.graph.ir import OURS, Graph, Node, Value, subgraphs
from engine.plan.lower.copies import emit_copy
from engine.plan.lower.known import known_dims
from engine.plan.lower.operands import checked
from engine.plan.lowering import Lowering, NoKernel, check_symbols, lowering_of, lowers


def inlined(graph: Graph) -> Iterator[Graph]:
    """The graph and the branches that may become part of its program."""
    yield graph
    for node in graph.nodes:
        if node.op == "If" and not node.domain:
            for branch in subgraphs(node):
                yield from inlined(branch)


@lowers("If")
def lower_if(node: Node, low: Lowering) -> None:
    """Both branches, each for the sizes where the condition takes it."""
    checked(node)
    known = known_dims(node.inputs[0])
    if known is None:
        raise NoKernel("the condition is computed: Python decides which of its branches runs")
    condition = known[0]
    targets = [low.write(value) if value.name else None for value in node.outputs]
    for name, when in (("then_branch", condition), ("else_branch", 1 - condition)):
        branch = node.attribute(name)
        with low.only_when(when):
            _emit(branch, low)
            for target, value in zip(targets, branch.outputs, strict=True):
                if target is not None:
                    emit_copy(low, low.read(value), target.view(_shape(value)))
    low.node = node


def _emit(branch: Graph, low: Lowering) -> None:
    for node in branch.nodes:
        if all(value.dims is not None or not value.name for value in node.outputs):
            continue
        for value in node.outputs:
            for dim in value.shape or ():
                _check_total(dim)
        check_symbols(node, low.symbols)
        low.node = node
        lowering_of(node)(node, low)


def _shape(value: Value) -> tuple[Dim, ...]:
    if value.shape is None:
        raise NoKernel(f"the rank of {value.name} is unknown")
    return value.shape


def _check_total(dim: Dim) -> None:
    """Binding evaluates the sizes of a branch that is not taken, so they must have a value."""
    for monomial, _ in dim.terms:
        for atom in monomial:
            divides = atom.name == "divide" and not atom.args[1].is_constant
            if atom.name == "broadcast" or divides:
                raise NoKernel(f"the size {dim} may have no value where its branch is not taken")
            for argument in atom.args:
                _check_total(argument)


@lowers(f"{OURS}.Assume")
def lower_assume(node: Node, low: Lowering) -> None:
    """The input itself; what is assumed is checked before a run."""
    checked(node)
    if known_dims(node.inputs[1]) is None:
        raise NoKernel("the assumption is known only at run time")
    low.alias(node.outputs[0], low.read(node.inputs[0]))
