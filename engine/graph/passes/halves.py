"""Operators on 16-bit floats compute in float32.

For an operator f whose kernels take float32, and x, w in float16 or bfloat16,

    f(x, w)  becomes  Cast(f(Cast(x), Cast(w)))

which rounds once, to the model's own data type, where accumulating in 16 bits would round at every
step; between two such operators nothing is rounded, as onnxruntime does it. Constants are converted
here, so that they are packed as float32. Precondition: the operator is in `WIDENED`, which lists
what computes; what only moves or compares elements takes 16-bit floats as they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import helper

from engine.graph.ir import Graph, Node, Value
from engine.graph.passes.functions import EXPANDED
from engine.graph.passes.manager import PassReport
from engine.graph.passes.rewrite import Names, Rewriter, all_graphs, constant_value

HALVES: Final = frozenset({"float16", "bfloat16"})

_ELEMENTWISE: Final = (
    "Abs", "Add", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul",
    "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu",
    "Where",
)  # fmt: skip

_LAYERS: Final = (
    "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "CumSum",
    "DFT", "Einsum", "GRU", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "GridSample",
    "GroupNormalization", "Hardmax", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization",
    "LogSoftmax", "LpNormalization", "LpPool", "MatMul", "MaxPool", "MeanVarianceNormalization",
    "RMSNormalization", "RNN", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    "Resize", "STFT", "Softmax", "TopK",
)  # fmt: skip

WIDENED: Final = EXPANDED | {"AffineGrid", "CumProd", *_ELEMENTWISE, *_LAYERS}

_SINGLE: Final = np.dtype(np.float32)


def halves(graph: Graph) -> PassReport:
    """Widen operators in the graph and its subgraphs."""
    names = Names(graph)
    changes = 0
    for inner in all_graphs(graph):
        rewriter = Rewriter(inner, names)
        singles: dict[int, Value] = {}
        for node in rewriter.nodes():
            if node.key in WIDENED and any(map(_is_half, (*node.inputs, *node.outputs))):
                _widen(rewriter, node, singles)
        changes += rewriter.finish()
    return PassReport("halves", changes)


def _is_half(value: Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.name in HALVES


def _widen(rewriter: Rewriter, node: Node, singles: dict[int, Value]) -> None:
    """Let a node compute in float32; `singles` are values that are known in it, by ``id``."""
    nodes: list[Node] = []
    inputs = [
        _widened(rewriter, value, nodes, singles)
        if value is not None and _is_half(value)
        else value
        for value in node.inputs
    ]
    wide = Node(node.op, inputs, [], node.attributes, node.domain, node.version, node.name)
    nodes.append(wide)
    for value in node.outputs:
        if not _is_half(value):
            wide.outputs.append(value)
            continue
        single = Value(rewriter.names.fresh(f"{value.name}_float32"), _SINGLE, value.shape)
        wide.outputs.append(single)
        singles[id(value)] = single
        nodes.append(_cast(single, value))
    rewriter.replace(node, nodes)


def _widened(
    rewriter: Rewriter, value: Value, nodes: list[Node], singles: dict[int, Value]
) -> Value:
    if id(value) in singles:
        return singles[id(value)]
    name = rewriter.names.fresh(f"{value.name}_float32")
    if value.data is not None:
        return constant_value(name, value.data.astype(np.float32))
    single = Value(name, _SINGLE, value.shape)
    nodes.append(_cast(value, single))
    singles[id(value)] = single
    return single


def _cast(source: Value, target: Value) -> Node:
    """Conversion of `source` to the data type of `target`, which it defines."""
    assert target.dtype is not None
    number = helper.np_dtype_to_tensor_dtype(target.dtype)
    return Node("Cast", [source], [target], {"to": number}, version=19)
