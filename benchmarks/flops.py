"""Counts the arithmetic that a model's dot products need at given shapes."""

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import shape_inference

# Larger initializers cannot be shapes or indices; inference needs only their own shape.
_KEEP_ELEMENTS = 1024
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

Shape = tuple[int, ...]


class FlopCounter:
    """Floating-point operations of one model, two per multiply-add, counted directly.

    Counted are Conv, ConvTranspose, MatMul, Gemm and the recurrent cells, whatever algorithm an
    engine uses for them; element-wise work is left out.
    """

    def __init__(self, model: onnx.ModelProto | Path) -> None:
        source = onnx.load(model) if isinstance(model, Path) else model
        self._skeleton = _without_weights(source)

    def count(self, dims: Mapping[str, int]) -> int:
        """Operations of one call with the symbolic dims of the inputs bound to `dims`.

        Raises ValueError where a shape cannot be inferred.
        """
        bound = onnx.ModelProto()
        bound.CopyFrom(self._skeleton)
        for value in bound.graph.input:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_value = dims[dim.dim_param]
        inferred = shape_inference.infer_shapes(bound, data_prop=True)
        shapes: dict[str, Shape] = {
            tensor.name: tuple(tensor.dims) for tensor in inferred.graph.initializer
        }
        for values in (inferred.graph.input, inferred.graph.value_info, inferred.graph.output):
            shapes.update({value.name: shape for value in values if (shape := _shape(value))})
        return sum(_node_flops(node, shapes) for node in inferred.graph.node)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    names = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in names)
    for value in model.graph.output:
        element = value.type.tensor_type.elem_type
        graph.output.append(onnx.helper.make_tensor_value_info(value.name, element, None))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _KEEP_ELEMENTS:
            graph.initializer.append(tensor)
        else:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(info)
    return skeleton


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    dims = value.type.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


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
