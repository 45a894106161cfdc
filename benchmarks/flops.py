"""Counts the arithmetic that a model's dot products need at given shapes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

# Larger tensors cannot be shapes or indices; inference needs only their own shape.
_SMALL = 1024
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

Shape = tuple[int, ...]


class FlopCounter:
    """Floating-point operations of one model, two per multiply-add, counted directly.

    Counted are Conv, ConvTranspose, MatMul, Gemm and the recurrent cells, whatever algorithm an
    engine uses for them; element-wise work is left out.
    """

    def __init__(self, model: onnx.ModelProto | Path) -> None:
        source = onnx.load(model) if isinstance(model, Path) else model
        graph = source.graph
        self._nodes = list(graph.node)
        self._opsets = list(source.opset_import)
        self._ir_version = source.ir_version
        self._version = next(entry.version for entry in self._opsets if not entry.domain)
        self._weights = {
            tensor.name: helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            for tensor in graph.initializer
        }
        self._constants = {
            tensor.name: tensor for tensor in graph.initializer if math.prod(tensor.dims) <= _SMALL
        }
        self._inputs = [value for value in graph.input if value.name not in self._weights]

    def count(self, dims: Mapping[str, int]) -> int:
        """Operations of one call with the symbolic dims of the inputs bound to `dims`.

        Raises ValueError where a shape cannot be inferred.
        """
        types = dict(self._weights)
        for value in self._inputs:
            bound = onnx.TypeProto()
            bound.CopyFrom(value.type)
            for dim in bound.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_value = dims[dim.dim_param]
            types[value.name] = bound
        constants = dict(self._constants)
        for node in self._nodes:
            self._infer(node, types, constants)
        shapes = {
            name: shape for name, kind in types.items() if (shape := _shape(kind)) is not None
        }
        return sum(_node_flops(node, shapes) for node in self._nodes)

    def _infer(
        self,
        node: onnx.NodeProto,
        types: dict[str, onnx.TypeProto],
        constants: dict[str, onnx.TensorProto],
    ) -> None:
        """Add the types of a node's outputs, and their values where the inputs' are known."""
        names = [name for name in node.input if name]
        types.update(
            shape_inference.infer_node_outputs(
                defs.get_schema(node.op_type, self._version, node.domain),
                node,
                {name: types[name] for name in names},
                {name: constants[name] for name in names if name in constants},
                opset_imports=self._opsets,
                ir_version=self._ir_version,
            )
        )
        if node.op_type == "Shape" and (shape := _shape(types[names[0]])) is not None:
            values: Sequence[Any] = [np.array(shape, np.int64)]
        elif names and all(name in constants for name in names):
            feeds = {name: numpy_helper.to_array(constants[name]) for name in names}
            values = list(ReferenceEvaluator(node, opsets={"": self._version}).run(None, feeds))
        else:
            return
        for name, value in zip(node.output, values, strict=True):
            if value.size <= _SMALL:
                constants[name] = numpy_helper.from_array(value, name)


def _shape(kind: onnx.TypeProto) -> Shape | None:
    tensor = kind.tensor_type
    known = all(dim.HasField("dim_value") for dim in tensor.shape.dim)
    if not tensor.HasField("shape") or not known:
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _node_flops(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    def shape(name: str) -> Shape:
        if name not in shapes:
            raise ValueError(f"node {node.name!r} ({node.op_type}): shape of {name!r} is unknown")
        return shapes[name]

    if node.op_type == "Conv":
        return 2 * math.prod(shape(node.output[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type == "MatMul":
        return 2 * math.prod(shape(node.output[0])) * shape(node.input[0])[-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        depth = shape(node.input[0])[0 if transposed else 1]
        return 2 * math.prod(shape(node.output[0])) * depth
    if node.op_type in _GATES:
        steps, batch, features = shape(node.input[0])
        directions, _, hidden = shape(node.input[2])
        per_row = _GATES[node.op_type] * hidden * (features + hidden)
        return 2 * steps * batch * directions * per_row
    return 0
