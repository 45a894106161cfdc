"""Expressions: one object per value, exact constants, linear in their distinct parts."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.codegen.expression import Expr

X = Expr.input(0, "float32")


def expressions() -> st.SearchStrategy[Expr]:
    leaves = st.one_of(
        st.integers(0, 3).map(lambda i: Expr.input(i, "float32")),
        st.floats(width=32).map(lambda v: Expr.constant(v, "float32")),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(st.sampled_from(["add", "mul", "max"]), inner, inner).map(
                lambda t: Expr.of(*t)
            ),
            st.tuples(inner, inner, inner).map(
                lambda t: Expr.of("select", Expr.of("less", t[0], t[1]), t[1], t[2])
            ),
        ),
        max_leaves=12,
    )


@given(expressions())
def test_json_and_pickle_give_the_same_object(expr: Expr) -> None:
    assert Expr.from_json(json.loads(json.dumps(expr.to_json()))) is expr
    assert pickle.loads(pickle.dumps(expr)) is expr
    assert copy.deepcopy(expr) is expr


def test_equal_expressions_are_one_object_and_zeros_of_both_signs_are_not() -> None:
    assert Expr.of("add", X, X) is Expr.of("add", X, X)
    assert Expr.constant(0.0, "float32") is not Expr.constant(-0.0, "float32")
    assert Expr.constant(math.nan, "float32") is Expr.constant(math.nan, "float32")
    assert Expr.constant(0.1, "float32").number == np.float32(0.1)
    assert Expr.constant(True, "bool") is Expr.constant(1, "bool")


def test_shared_parts_are_counted_and_written_once() -> None:
    expr = X
    for _ in range(60):
        expr = Expr.of("add", expr, expr)
    assert expr.operations == 60
    assert len(expr.to_json()) == 61
    assert expr.substitute({0: Expr.input(1, "float32")}).inputs[0].value == 1


def test_substitution_replaces_inputs_only() -> None:
    y = Expr.of("mul", X, Expr.input(1, "float32"))
    replaced = y.substitute({1: Expr.of("exp", X)})
    assert str(replaced) == "mul(x0, exp(x0))"
    assert [i.value for i in replaced.inputs] == [0]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        (("float32", "float64", "float32"), "x0"),
        (("int32", "int64", "float32"), "float32(x0)"),
        (("bool", "float32", "bool"), "x0"),
        (("uint8", "int32", "uint8"), "x0"),
        (("float64", "float32", "float64"), "float64(float32(x0))"),
        (("int64", "float64", "int64"), "int64(float64(x0))"),
        (("int32", "float32", "int32"), "int32(float32(x0))"),
        (("float32", "int32", "float32"), "float32(int32(x0))"),
        (("float32", "float32", "float32"), "x0"),
    ],
)
def test_casts_that_lose_nothing_disappear(path: tuple[str, str, str], left: str) -> None:
    source, middle, target = path
    assert str(Expr.input(0, source).cast(middle).cast(target)) == left


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="no scalar operation"):
        Expr("frobnicate", (X,))
    with pytest.raises(ValueError, match="differ in data type"):
        Expr.of("add", X, Expr.input(1, "int64"))
    with pytest.raises(ValueError, match="no data type"):
        Expr.input(0, "complex64")
