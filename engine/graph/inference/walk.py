"""The walk over a graph that applies one rule per node."""

from __future__ import annotations

from engine.errors import ModelError
from engine.graph.dims import DimError
from engine.graph.inference import (  # noqa: F401 - importing a family registers its rules
    attention,
    control,
    convolution,
    creation,
    elementwise,
    indexing,
    learning,
    matrix,
    movement,
    normalisation,
    ours,
    quantisation,
    recurrent,
    reduction,
    sampling,
    sequence,
    signal,
    slicing,
    text,
)
from engine.graph.inference.context import Guard, Inference, State, Unknown
from engine.graph.inference.registry import RULES
from engine.graph.inference.signatures import infer_types, signature
from engine.graph.ir import Graph, Node


def infer(graph: Graph, strict: Graph | None = None) -> list[Guard]:
    """Fill data type, shape and shape values of every node output, subgraphs included.

    Shapes of graph inputs must be filled. What no rule knows keeps the type and shape that the
    file declares. Dims that depend on data are fresh symbols, named after their value and axis;
    a symbol from a Loop or Scan body holds for one iteration. Running it again, after a pass,
    gives the same names. What can never be right in a subgraph only ends the rule, because the
    node may never run; in the subgraph `strict` it is refused as in the main graph.

    Returns the equalities that the model relies on but that are not proven. Raises ModelError,
    naming the node, for what can never be right: wrong types, axes, ranks and sizes.
    """
    state = start(graph)
    state.strict = strict
    _infer_graph(graph, state, None)
    return list(state.guards.values())


def start(graph: Graph) -> State:
    """State of an inference of `graph` that is driven node by node with `infer_node`."""
    reserved = frozenset(
        name for value in graph.inputs for dim in value.shape or () for name in dim.symbols
    )
    return State(reserved, _infer_graph)


def _infer_graph(graph: Graph, state: State, subgraph: Graph | None) -> None:
    """Infer the nodes of a graph whose inputs and captures are inferred."""
    for node in graph.nodes:
        infer_node(node, state, subgraph)


def infer_node(node: Node, state: State, subgraph: Graph | None) -> None:
    """Infer the outputs of one node whose inputs are inferred."""
    for value in node.outputs:
        value.dims = None
        state.elements.pop(id(value), None)
    types = signature(node.domain, node.op, node.version)
    if types is not None:
        infer_types(node, types)
    rule = RULES.get((node.domain, node.op))
    if rule is None:
        return
    version = types.version if types is not None else node.version
    inference = Inference(node, version, state, subgraph)
    try:
        rule(inference)
    except Unknown:
        return
    except DimError as error:
        if not inference.is_lenient:
            inference.error(str(error))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # An attribute or constant of a form that no valid model has.
        raise ModelError(
            f"node {node.label!r} ({node.key}): its attributes or constants are malformed: {error}"
        ) from error
