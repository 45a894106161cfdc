"""Operators that ONNX defines by others, in terms of these.

The schema of such an operator carries a function: a graph over its inputs and attributes (ONNX
specification, "Functions"). A node with no kernel of its own is replaced by the function's body, of
which most parts have one; the passes after this one find its fusions. Precondition: the operator is
in `EXPANDED` and all of its tensors are of data types that kernels compute with.

What draws random numbers is left to the reference implementation, whose draws its users know.
"""

from __future__ import annotations

from typing import Any, Final

from onnx import FunctionProto, ModelProto, ValueInfoProto

from engine.errors import ModelError
from engine.graph.conversion import Converter
from engine.graph.ir import Graph, Node, Value, subgraphs
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs
from engine.graph.protos import node_proto, schema_of, type_proto
from engine.graph.tensors import TensorReader

EXPANDED: Final = frozenset(
    {
        "Attention",
        "BlackmanWindow",
        "CausalConvWithState",
        "CenterCropPad",
        "DynamicQuantizeLinear",
        "HammingWindow",
        "HannWindow",
        "LinearAttention",
        "NegativeLogLikelihoodLoss",
        "RotaryEmbedding",
        "Shrink",
        "SoftmaxCrossEntropyLoss",
        "SwiGLU",
        "ai.onnx.preview.FlexAttention",
    }
)
"""Operators that have no kernel, by `Node.key`."""

_COMPUTED: Final = frozenset({"float32", "bool", "int32", "int64", "int8", "uint8"})
_BODIES: Final = "packhorse.function"
"""Domain of the one function in the model that a body is read from."""


def functions(graph: Graph) -> PassReport:
    """Expand operators in the graph and its subgraphs."""
    names = Names(graph)
    notes: list[str] = []
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        for node in rewriter.nodes():
            if node.key in EXPANDED:
                reason = _expand(rewriter, node, inner.opsets or graph.opsets)
                if reason:
                    notes.append(f"{node.label}: {node.op} stays: {reason}")
        changes += rewriter.finish()
    return PassReport("functions", changes, notes)


def _expand(rewriter: Rewriter, node: Node, opsets: dict[str, int]) -> str | None:
    if subgraphs(node):
        return "it has subgraphs"
    for value in node.inputs:
        if value is not None and (value.dtype is None or value.dtype.name not in _COMPUTED):
            return f"{value.name} is {value.dtype}"
    function = _function(node, opsets.get(node.domain, node.version))
    if function is None:
        return "its function does not exist for these inputs"
    try:
        body = _read(node, function)
    except ModelError as error:
        return str(error)
    places = {value.name: value for value in body.inputs}
    actual = {
        id(places[f"x{i}"]): value for i, value in enumerate(node.inputs) if value is not None
    }
    results = iter(body.outputs)
    for value in node.outputs:
        if value.name:
            actual[id(next(results))] = value
    if len(actual) < len(body.inputs) + len(body.outputs):
        return "its function returns an input, or a value twice"
    _adopt(body, node, actual, rewriter.names)
    rewriter.replace(node, body.nodes)
    return None


def _adopt(body: Graph, node: Node, actual: dict[int, Value], names: Names) -> None:
    """Let a body read and write the call's values, under names that nothing else has."""
    renamed: set[int] = set()
    for inner in all_graphs(body):
        for value in inner.values():
            if value.name and id(value) not in actual and id(value) not in renamed:
                renamed.add(id(value))
                value.name = names.fresh(f"{node.label}/{value.name}")
        for part in inner.nodes:
            part.name = f"{node.label}/{part.name or part.op}"
            part.inputs = [v if v is None else actual.get(id(v), v) for v in part.inputs]
            part.outputs = [actual.get(id(v), v) for v in part.outputs]
        inner.captures = [actual.get(id(v), v) for v in inner.captures]
        inner.outputs = [actual.get(id(v), v) for v in inner.outputs]


def _function(node: Node, opset: int) -> FunctionProto | None:
    """The operator's function for the newest opset up to `opset`."""
    schema: Any = schema_of(node)  # the package's type stub lacks what it says of functions
    if schema.has_context_dependent_function:
        version = _newest(schema.context_dependent_function_opset_versions, opset)
        types = [b"" if v is None else type_proto(v).SerializeToString() for v in node.inputs]
        proto = node_proto(node).SerializeToString()
        data = schema.get_context_dependent_function_with_opset_version(version, proto, types)
    elif schema.has_function:
        version = _newest(schema.function_opset_versions, opset)
        data = schema.get_function_with_opset_version(version)
    else:
        return None
    return FunctionProto.FromString(data) if data else None


def _newest(versions: list[int], opset: int) -> int:
    return max((version for version in versions if version <= opset), default=min(versions))


def _read(node: Node, function: FunctionProto) -> Graph:
    """Body of a function, called with the node's attributes, as a graph with the call's names."""
    function.domain, function.overload = _BODIES, ""
    call = node_proto(node, defaults=True)
    call.domain, call.name = _BODIES, ""
    model = ModelProto(functions=[function])
    model.graph.node.append(call)
    for index, value in enumerate(node.inputs):
        if value is not None:
            model.graph.input.append(ValueInfoProto(name=f"x{index}", type=type_proto(value)))
    model.graph.output.extend(ValueInfoProto(name=name) for name in call.output if name)
    model.opset_import.extend(function.opset_import)
    return Converter(model, TensorReader(None), f"function {node.op}").convert([], [])
