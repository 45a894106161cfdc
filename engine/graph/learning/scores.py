"""What classifiers and regressors do with their scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph.body import Body, Unsupported
from engine.graph.ir import Value


def transform(b: Body, scores: Value, name: str) -> Value:
    """Scores [rows, classes] after a `post_transform`."""
    if name == "NONE":
        return scores
    if name == "LOGISTIC":
        return b("Sigmoid", scores)
    if name == "SOFTMAX":
        return b("Softmax", scores, axis=1)
    if name == "SOFTMAX_ZERO":
        return _softmax_zero(b, scores)
    if name == "PROBIT":
        return _probit(b, scores)
    raise Unsupported(f"its transform {name!r} is unknown")


def _softmax_zero(b: Body, scores: Value) -> Value:
    """Softmax in which scores of zero stay zero (and weigh nothing)."""
    largest = b("ReduceMax", scores, b.ints(1), keepdims=1)
    powers = b("Exp", b("Sub", scores, largest))
    counted = b("Greater", b("Abs", scores), b.like(1e-7, scores))
    small = b("Mul", scores, b("Exp", b("Neg", largest)))
    powers = b("Where", counted, powers, small)
    total = b("ReduceSum", b("Where", counted, powers, b.like(0, scores)), b.ints(1), keepdims=1)
    none = b("Equal", total, b.like(0, scores))
    return b("Div", powers, b("Where", none, b.like(1, scores), total))


def _probit(b: Body, scores: Value) -> Value:
    """``sqrt(2) * erfinv(2 s - 1)`` by Winitzki's approximation, as the operator's runtime has it.

    S. Winitzki, "A handy approximation for the error function and its inverse", 2008, eq. 7.
    """
    one = b.like(1, scores)
    x = b("Sub", b("Mul", scores, b.like(2, scores)), one)
    logarithm = b("Log", b("Mul", b("Sub", one, x), b("Add", one, x)))
    a = 0.147
    first = b("Mul", logarithm, b.like(0.5, scores))
    first = b("Add", first, b.like(2 / (3.14159 * a), scores))
    square = b("Sub", b("Mul", first, first), b("Mul", logarithm, b.like(1 / a, scores)))
    root = b("Sqrt", b("Sub", b("Sqrt", square), first))
    return b("Mul", b("Mul", b("Sign", x), root), b.like(1.41421356, scores))


def give_labels(
    b: Body, scores: Value | None, labels: list[Any], chosen: Value | None = None
) -> None:
    """Output 0: the label of the (first) largest score, or that of the index `chosen`."""
    if not b.wants(0):
        return
    if chosen is None:
        assert scores is not None
        chosen = b("ArgMax", scores, axis=1, keepdims=0)
    if list(labels) == list(range(len(labels))):
        b.give(0, chosen)
        return
    texts = isinstance(labels[0], str)
    table = np.array(labels, object if texts else np.int64)
    b.give(0, b("Gather", b.constant(table), chosen, axis=0))
