"""Rules of normalisation, softmax and losses: mostly the shape of the input."""

from __future__ import annotations

import numpy as np

from engine.graph.dims import Dim
from engine.graph.inference.context import Inference
from engine.graph.inference.registry import rule
from engine.graph.tensors import data_type


@rule("BatchNormalization")
def _batch_normalisation(node: Inference) -> None:
    shape = node.shape(0)
    node.same_shape()
    channels = shape[1:2] or (1,)
    # Running statistics of the training mode; the old schemas leave their types open.
    for output in range(1, 5):
        node.output(output, channels, node.dtype(min(2 + output, 3) if node.version >= 14 else 0))
    if len(shape) > 1:
        for index in range(1, len(node.node.inputs)):
            if node.has(index) and node.value(index).shape is not None:
                node.rank(index, 1)
                what = f"channels and {('', 'scale', 'bias', 'mean', 'variance')[index]}"
                node.require_equal(shape[1], node.shape(index)[0], what)


@rule("InstanceNormalization", "GroupNormalization")
def _channel_normalisation(node: Inference) -> None:
    if node.node.op == "GroupNormalization" and int(node.attribute("num_groups", 0)) < 1:
        node.error("the attribute num_groups must be a positive number")
    node.same_shape()


@rule("LayerNormalization", "RMSNormalization")
def _layer_normalisation(node: Inference) -> None:
    shape = node.shape(0)
    axis = node.axis(node.attribute("axis", -1), len(shape))
    node.same_shape()
    statistics = (*shape[:axis], *[Dim.of(1)] * (len(shape) - axis))
    stash = data_type(node.attribute("stash_type", 1), "stash_type")
    node.output(1, statistics, stash)
    node.output(2, statistics, stash)
    joint = node.broadcast([shape, node.shape(1)], "input and scale")
    if len(joint) != len(shape):
        node.error("scale has more axes than the input")


@rule(
    "Hardmax",
    "LogSoftmax",
    "LpNormalization",
    "LRN",
    "MeanVarianceNormalization",
    "Softmax",
)
def _same(node: Inference) -> None:
    shape = node.shape(0)
    axis = node.attribute("axis")
    if axis is not None and shape:
        node.axis(axis, len(shape) + (1 if axis == len(shape) and node.version < 13 else 0))
    node.same_shape()


@rule("Dropout")
def _dropout(node: Inference) -> None:
    node.same_shape()
    node.output(1, node.shape(0), np.bool_ if node.version >= 10 else None)


def _loss(node: Inference) -> None:
    shape = node.shape(0)
    if len(shape) < 2:
        node.error(f"scores have rank {len(shape)}, not at least 2")
    target = node.broadcast([(shape[0], *shape[2:]), node.shape(1)], "scores and labels")
    node.output(0, target if node.attribute("reduction", "mean") == "none" else ())


@rule("NegativeLogLikelihoodLoss")
def _likelihood_loss(node: Inference) -> None:
    _loss(node)


@rule("SoftmaxCrossEntropyLoss")
def _cross_entropy_loss(node: Inference) -> None:
    _loss(node)
    node.output(1, node.shape(0), node.dtype(0))
