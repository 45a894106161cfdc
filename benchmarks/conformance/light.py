"""The ``light_*`` graphs with random weights instead of their constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray[Any, Any]


def light_model(path: Path) -> tuple[onnx.ModelProto, list[Array]]:
    """Network with seeded weights, and one image for it.

    Weights are normal with a variance of 2 / fan-in, which keeps activations of a rectifier network
    at one size; means are small, variances and scales near one.
    """
    model = onnx.load(path)
    graph = model.graph
    random = np.random.default_rng(len(graph.node))
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    generated = [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]
    roles = _roles(graph)
    for node in generated:
        name = node.output[0]
        weights = _weights(random, [int(n) for n in shapes[node.input[0]]], roles.get(name, ""))
        graph.initializer.append(numpy_helper.from_array(weights, name))
        graph.node.remove(node)
    constants = {tensor.name for tensor in graph.initializer}
    for tensor in list(graph.initializer):
        role = roles.get(tensor.name, "")
        if tensor.data_type == onnx.TensorProto.FLOAT and role:
            weights = _weights(random, list(tensor.dims), role)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    images = [
        random.standard_normal([d.dim_value for d in info.type.tensor_type.shape.dim], np.float32)
        for info in graph.input
        if info.name not in constants
    ]
    return model, images


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """What each parameter is to the operator that reads it."""
    names = {
        "BatchNormalization": ("", "scale", "bias", "mean", "variance"),
        "Conv": ("", "weights", "bias"),
        "Gemm": ("", "weights", "bias"),
    }
    roles: dict[str, str] = {}
    for node in graph.node:
        pairs = zip(node.input, names.get(node.op_type, ()), strict=False)
        roles.update((name, role) for name, role in pairs if role)
    return roles


def _weights(random: np.random.Generator, shape: list[int], role: str) -> Array:
    if role in ("scale", "variance"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if role == "weights":
        fan_in = max(int(np.prod(shape[1:])), 1)
        return random.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
    return random.normal(0, 0.1, shape).astype(np.float32)
