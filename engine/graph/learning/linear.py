"""Linear models: one product, then what classifiers do with scores."""

from __future__ import annotations

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, rank_of
from engine.graph.ir import Value
from engine.graph.learning.registry import rewrites_as
from engine.graph.learning.scores import give_labels, transform


def _scores(b: Body, outputs: int) -> Value:
    """``x @ coefficients' + intercepts``."""
    x = b.input(0)
    if dtype_of(x).kind not in "fiu":
        raise Unsupported(f"{x.name} is {x.dtype}")
    x = b.cast(x, np.float32)
    if rank_of(x) == 1:
        x = b("Unsqueeze", x, b.ints(0))
    if rank_of(x) != 2:
        raise Unsupported(f"its input has rank {rank_of(x)}")
    matrix = np.asarray(b.attribute("coefficients"), np.float32).reshape(outputs, -1)
    intercepts = np.asarray(b.attribute("intercepts") or [0.0] * outputs, np.float32)
    bias = b.constant(np.broadcast_to(intercepts, outputs).copy())
    return b("Gemm", x, b.constant(matrix), bias, transB=1)


@rewrites_as("LinearRegressor")
def _regressor(b: Body) -> None:
    """Scores, transformed; a single one stays as it is but for PROBIT."""
    outputs = int(b.attribute("targets", 1))
    name = b.attribute("post_transform", "NONE")
    scores = _scores(b, outputs)
    b.give(0, transform(b, scores, name if outputs > 1 or name == "PROBIT" else "NONE"))


@rewrites_as("LinearClassifier")
def _classifier(b: Body) -> None:
    """Scores per class, and the label of the largest.

    Two labels may share one score s: the second class is chosen where s is above 0, and the scores
    are ``1 - s`` and s, or the logistic function of ``-s`` and s.
    """
    texts = b.attribute("classlabels_strings")
    labels = texts or b.attribute("classlabels_ints") or []
    count = len(b.attribute("intercepts") or labels)
    name = b.attribute("post_transform", "NONE")
    scores = _scores(b, count)
    if count > 1:
        give_labels(b, scores, labels)
        b.give(1, transform(b, scores, name))
        return
    if len(labels) != 2 or name not in ("NONE", "LOGISTIC"):
        raise Unsupported("one score, but not for two labels, or with a transform of several")
    chosen = b("Greater", b.reshape(scores, -1), b.like(0, scores))
    give_labels(b, None, labels, b.cast(chosen, np.int64))
    if name == "LOGISTIC":
        b.give(1, transform(b, b("Concat", b("Neg", scores), scores, axis=1), name))
    else:
        b.give(1, b("Concat", b("Sub", b.like(1, scores), scores), scores, axis=1))
