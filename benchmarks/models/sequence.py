"""Recurrent text classifiers and a multilayer perceptron."""

import itertools
from typing import Literal

import numpy as np
import onnx

from benchmarks.models.graph import GraphBuilder
from benchmarks.models.layers import bidirectional, gemm

VOCABULARY = 10_000
EMBEDDING = 256
HIDDEN = 256
CLASSES = 5
MLP_WIDTHS = (64, 128, 128, 64, 10)


def lstm_classifier() -> onnx.ModelProto:
    """Two bidirectional LSTM layers over tokens [batch, length], mean, logits [batch, 5]."""
    return _classifier("lstm", "LSTM", 21)


def gru_classifier() -> onnx.ModelProto:
    """Two bidirectional GRU layers over tokens [batch, length], mean, logits [batch, 5]."""
    return _classifier("gru", "GRU", 22)


def mlp() -> onnx.ModelProto:
    """Four fully connected layers with ReLU between: features [batch, 64] to [batch, 10]."""
    b = GraphBuilder("mlp", 4)
    x = b.input("features", ["batch", MLP_WIDTHS[0]])
    layers = list(itertools.pairwise(MLP_WIDTHS))
    for features in layers[:-1]:
        x = b.op("Relu", gemm(b, x, features, gain=1.4142135))
    b.output("logits", gemm(b, x, layers[-1], gain=1.4142135), ["batch", MLP_WIDTHS[-1]])
    return b.model()


def _classifier(name: str, cell: Literal["LSTM", "GRU"], seed: int) -> onnx.ModelProto:
    b = GraphBuilder(name, seed)
    tokens = b.input("tokens", ["batch", "length"], np.int64)
    table = b.weight(b.gaussian((VOCABULARY, EMBEDDING), 1.0), "embedding")
    x = b.op("Transpose", b.op("Gather", table, tokens), perm=[1, 0, 2])
    for features in (EMBEDDING, 2 * HIDDEN):
        x = bidirectional(b, cell, x, features, HIDDEN, zero_state=cell == "LSTM")
    x = b.op("ReduceMean", x, axes=[0], keepdims=0)
    b.output("logits", gemm(b, x, (2 * HIDDEN, CLASSES), gain=4.0), ["batch", CLASSES])
    return b.model()
