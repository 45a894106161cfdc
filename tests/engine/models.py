"""Small models that tests of the runtime and the session build for themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def serialise(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    name: str = "model",
) -> bytes:
    """Bytes of a model with inferred output types."""
    graph = helper.make_graph(
        list(nodes),
        name,
        list(inputs),
        [helper.make_empty_tensor_value_info(output) for output in outputs],
        [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def tensor(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    """Description of an input."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def chain(width: int, layers: int, seed: int = 0) -> bytes:
    """``layers`` times MatMul, Add and Relu on x [rows, width], giving y."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    nodes = []
    value = "x"
    for layer in range(layers):
        scale = np.sqrt(2 / width)
        weights[f"w{layer}"] = (rng.standard_normal((width, width)) * scale).astype(np.float32)
        weights[f"b{layer}"] = rng.standard_normal(width).astype(np.float32) * np.float32(0.1)
        result = "y" if layer == layers - 1 else f"v{layer}"
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"p{layer}"]))
        nodes.append(helper.make_node("Add", [f"p{layer}", f"b{layer}"], [f"s{layer}"]))
        nodes.append(helper.make_node("Relu", [f"s{layer}"], [result]))
        value = result
    return serialise(nodes, [tensor("x", ["rows", width])], ["y"], weights)
