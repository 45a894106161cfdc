"""Rules of the domain ``ai.onnx.ml``: what stays in it still gives its readers sizes."""

from __future__ import annotations

import numpy as np

from engine.graph.dims import Dim
from engine.graph.inference.context import Inference, Shape
from engine.graph.inference.registry import rule

_DOMAIN = "ai.onnx.ml"


def _rows(node: Inference) -> Dim:
    """Number of rows; a vector counts as one."""
    shape = node.shape(0)
    return shape[0] if len(shape) > 1 else Dim.of(1)


def _as_row(shape: Shape) -> Shape:
    return shape if len(shape) > 1 else (Dim.of(1), *shape)


@rule("Scaler", "Normalizer", domain=_DOMAIN)
def _scaled(node: Inference) -> None:
    node.output(0, node.shape(0), np.float32)


@rule("Imputer", "Binarizer", domain=_DOMAIN)
def _same(node: Inference) -> None:
    node.output(0, node.shape(0), node.dtype(0))


@rule("ZipMap", domain=_DOMAIN)
def _zipped(node: Inference) -> None:
    """A list of maps."""
    node.node.outputs[0].kind = "sequence"


@rule("CategoryMapper", domain=_DOMAIN)
def _mapped(node: Inference) -> None:
    node.output(0, node.shape(0), np.int64 if node.dtype(0).kind == "O" else object)


@rule("LabelEncoder", domain=_DOMAIN)
def _encoded(node: Inference) -> None:
    node.same_shape()


@rule("OneHotEncoder", domain=_DOMAIN)
def _one_hot(node: Inference) -> None:
    count = len(node.attribute("cats_int64s") or node.attribute("cats_strings") or [])
    node.output(0, (*node.shape(0), count), np.float32)


@rule("ArrayFeatureExtractor", domain=_DOMAIN)
def _extracted(node: Inference) -> None:
    count = Dim.of(1)
    for dim in node.shape(1):
        count = count * dim
    node.output(0, (*_as_row(node.shape(0))[:-1], count), node.dtype(0))


@rule("FeatureVectorizer", domain=_DOMAIN)
def _vectorized(node: Inference) -> None:
    sizes = node.attribute("inputdimensions")
    rank = len(node.shape(0))
    if sizes and rank == 2:
        node.output(0, (node.shape(0)[0], sum(sizes)), np.float32)


@rule("LinearRegressor", domain=_DOMAIN)
def _linear(node: Inference) -> None:
    node.output(0, (_rows(node), node.attribute("targets", 1)), np.float32)


@rule("SVMRegressor", domain=_DOMAIN)
def _support(node: Inference) -> None:
    node.output(0, (_rows(node), 1), np.float32)


@rule("TreeEnsembleRegressor", domain=_DOMAIN)
def _trees(node: Inference) -> None:
    node.output(0, (_rows(node), node.attribute("n_targets", 1)), np.float32)


@rule("TreeEnsemble", domain=_DOMAIN)
def _newer_trees(node: Inference) -> None:
    node.output(0, (_rows(node), node.attribute("n_targets", 1)), node.dtype(0))


@rule("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier", domain=_DOMAIN)
def _classifier(node: Inference) -> None:
    """Labels and, where it is plain how many there are, scores."""
    texts = node.attribute("classlabels_strings")
    numbers = node.attribute("classlabels_int64s") or node.attribute("classlabels_ints")
    labels = texts or numbers or []
    node.output(0, (_rows(node),), object if texts else np.int64)
    many = len(labels) > 2
    node.output(1, (_rows(node), len(labels) if many else node.fresh(1, 1)), np.float32)
