"""Rules of quantisation."""

from __future__ import annotations

import numpy as np

from engine.graph.inference.context import Inference
from engine.graph.inference.registry import rule
from engine.graph.tensors import data_type


@rule("QuantizeLinear")
def _quantize(node: Inference) -> None:
    declared = node.attribute("output_dtype", 0)
    if node.has(2):
        node.output(0, dtype=node.dtype(2))
    else:
        node.output(0, dtype=data_type(declared, "output_dtype") if declared else np.uint8)
    node.same_shape()


@rule("DequantizeLinear")
def _dequantize(node: Inference) -> None:
    declared = node.attribute("output_dtype", 0)
    node.output(0, dtype=data_type(declared, "output_dtype") if declared else node.dtype(1))
    node.same_shape()


@rule("DynamicQuantizeLinear")
def _dynamic_quantize(node: Inference) -> None:
    node.output(0, node.shape(0), np.uint8)
    node.output(1, (), np.float32)
    node.output(2, (), np.uint8)
