"""Lowering of If: both branches in one program, each of which writes the outputs.

Where the condition follows from sizes, the calls of a branch have work items only for the sizes
that take it: binding decides, and a run makes no decision. Where it is computed, a jump leads over
the branch that is not taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim
from engine.graph.ir import OURS, Graph, Node, Value, subgraphs
from engine.kernels import jumps
from engine.plan.lower.copies import emit_copy
from engine.plan.lower.known import known_dims
from engine.plan.lower.operands import checked
from engine.plan.lowering import Label, Lowering, NoKernel, check_symbols, lowering_of, lowers
from engine.plan.tensor import ONE, Tensor


def inlined(graph: Graph) -> Iterator[Graph]:
    """The graph and the branches that may become part of its program."""
    yield graph
    for node in graph.nodes:
        if node.op in ("If", "Loop") and not node.domain:
            for branch in subgraphs(node):
                yield from inlined(branch)


@lowers("If")
def lower_if(node: Node, low: Lowering) -> None:
    """Both branches, each for the sizes, or the runs, in which the condition takes it."""
    checked(node)
    check_symbols(node, low.symbols)
    known = known_dims(node.inputs[0])
    targets = [low.write(value) if value.name else None for value in node.outputs]
    if known is None:
        _jump_over(node, low, targets)
        return
    condition = known[0]
    for name, when in (("then_branch", condition), ("else_branch", 1 - condition)):
        with low.only_when(when):
            _emit_branch(node.attribute(name), low, targets)
    low.node = node


def _jump_over(node: Node, low: Lowering, targets: Sequence[Tensor | None]) -> None:
    otherwise, behind = Label(), Label()
    condition = low.read(node.inputs[0])
    low.jump(KernelSpec.of(jumps.CHOOSE.name), otherwise, condition=condition, active=low.when)
    with low.apart(ONE):
        _emit_branch(node.attribute("then_branch"), low, targets)
    low.node = node
    low.jump(KernelSpec.of(jumps.SKIP.name), behind)
    low.mark(otherwise)
    with low.apart(ONE):
        _emit_branch(node.attribute("else_branch"), low, targets)
    low.node = node
    low.mark(behind)


def _emit_branch(branch: Graph, low: Lowering, targets: Sequence[Tensor | None]) -> None:
    emit_body(branch, low)
    for target, value in zip(targets, branch.outputs, strict=True):
        if target is not None:
            emit_copy(low, low.read(value), target.view(_shape(value)))


def emit_body(body: Graph, low: Lowering) -> None:
    """Lower the nodes of a subgraph; NoKernel names the one that has none."""
    for node in body.nodes:
        if all(value.dims is not None or not value.name for value in node.outputs):
            continue
        try:
            for value in node.outputs:
                for dim in value.shape or ():
                    _check_total(dim)
            if not subgraphs(node):
                check_symbols(node, low.symbols)
            low.node = node
            lowering_of(node)(node, low)
        except NoKernel as verdict:
            raise NoKernel(f"{node.label} inside it: {verdict}") from None


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
