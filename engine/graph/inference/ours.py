"""Rules of the operators that passes create (domain ``packhorse``)."""

from __future__ import annotations

import numpy as np

from engine.graph.inference.context import Inference
from engine.graph.inference.registry import rule
from engine.graph.ir import OURS


@rule("Copy", domain=OURS)
def _copy(node: Inference) -> None:
    node.output(0, node.shape(0), node.dtype(0))


@rule("Silu", domain=OURS)
def _silu(node: Inference) -> None:
    node.output(0, node.shape(0), node.dtype(0))


@rule("Elementwise", domain=OURS)
def _elementwise(node: Inference) -> None:
    """Inputs broadcast; the attribute `expression` knows the data type of the result."""
    shapes = [node.shape(index) for index in range(len(node.node.inputs))]
    node.output(0, node.broadcast(shapes), np.dtype(node.attribute("expression").dtype))
