"""Graphs in the text form of ONNX, and what onnxruntime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import parser

from engine.graph.ir import Graph, Value
from engine.graph.reader import read


def graph_of(text: str, opset: int = 18) -> tuple[Graph, bytes]:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    content = model.SerializeToString()
    return read(content), content


def by_name(graph: Graph) -> dict[str, Value]:
    return {value.name: value for value in graph.values()}


def shape_text(value: Value) -> list[str] | None:
    return None if value.shape is None else [str(dim) for dim in value.shape]


def run(content: bytes, feeds: dict[str, np.ndarray]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_equals_run(graph: Graph, content: bytes, sizes: dict[str, int]) -> None:
    """Outputs of onnxruntime have the inferred types, shapes and known elements."""
    generator = np.random.default_rng(0)
    feeds = {}
    for value in graph.inputs:
        assert value.shape is not None
        shape = [dim.evaluate(sizes) for dim in value.shape]
        feeds[value.name] = generator.standard_normal(shape).astype(value.dtype)
    for value, array in zip(graph.outputs, run(content, feeds), strict=True):
        assert value.dtype == array.dtype
        assert value.shape is not None
        assert tuple(dim.evaluate(sizes) for dim in value.shape) == array.shape
        if value.dims is not None:
            assert [dim.evaluate(sizes) for dim in value.dims] == array.reshape(-1).tolist()
