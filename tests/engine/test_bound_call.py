"""Calls on fixed arrays, and the short way of small programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import engine
from tests.engine.models import chain, serialise, tensor

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def session() -> engine.Session:
    return engine.load(chain(width=16, layers=2), threads=2)


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3000])
def test_reads_and_writes_where_the_arrays_lie(session: engine.Session, count: int) -> None:
    x, y = rows(count), np.empty((count, 16), np.float32)
    call = session.bind({"x": x}, {"y": y})
    for seed in range(3):
        x[:] = rows(count, seed)
        assert call()["y"] is y
        assert y.tobytes() == session.run({"x": rows(count, seed)})["y"].tobytes()
    made = session.bind({"x": x})()["y"]
    assert made is not y
    assert made.tobytes() == y.tobytes()


def test_models_of_several_segments_are_bound_too() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["a"], seed=1.0),
        helper.make_node("Add", ["a", "x"], ["y"]),
    ]
    model = serialise(nodes, [tensor("x", ["n"])], ["y"])
    session = engine.load(model, threads=1)
    assert session.stats()["fallback_segments"] == 1
    x, y = np.full(5, 2.0, np.float32), np.zeros(5, np.float32)
    call = session.bind({"x": x}, {"y": y})
    x[:] = 3.0
    call()
    np.testing.assert_array_equal(y, session.run({"x": x})["y"])
    np.testing.assert_allclose(y - session.run({"x": x - 1})["y"], 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"x": rows(2).astype(np.float64)}, {}, "float64"),
        ({"x": rows(4)[::2]}, {}, "C-contiguous"),
        ({"x": rows(2)}, {"y": np.empty((3, 16), np.float32)}, r"array of float32 \[2, 16\]"),
        ({"x": rows(2)}, {"z": np.empty((2, 16), np.float32)}, "there is no output 'z'"),
    ],
)
def test_arrays_that_do_not_fit(
    session: engine.Session, inputs: dict[str, Array], outputs: dict[str, Array], message: str
) -> None:
    with pytest.raises(engine.InputError, match=message):
        session.bind(inputs, outputs)


def test_the_short_way_gives_fresh_arrays_and_counts(session: engine.Session) -> None:
    first = session.run({"x": rows(2)})["y"]
    before = session.stats()
    second = session.run({"x": rows(2)})["y"]
    after = session.stats()
    assert second is not first
    assert second.tobytes() == first.tobytes()
    assert after["runs"] == before["runs"] + 1
    assert after["bind_hits"] == before["bind_hits"] + 1
    assert after["binds"] == before["binds"]


def test_two_inputs_of_other_order_than_the_program_reads() -> None:
    nodes = [
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Sub", ["c", "a"], ["y"]),
        helper.make_node("Sub", ["a", "b"], ["z"]),
    ]
    model = serialise(nodes, [tensor("a", ["n"]), tensor("b", ["n"])], ["z", "y"])
    session = engine.load(model, threads=1)
    a, b = np.arange(4, dtype=np.float32), np.full(4, 7, np.float32)
    for _ in range(3):
        results = session.run({"b": b, "a": a})
        assert list(results) == ["z", "y"]
        np.testing.assert_array_equal(results["y"], -b - a)
        np.testing.assert_array_equal(results["z"], a - b)
