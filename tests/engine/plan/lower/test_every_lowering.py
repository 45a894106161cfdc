"""Promises that hold for every native operator, walked by the registry of lowerings.

On one session, shapes A, B, A, C give what onnxruntime gives and the second A the bytes of the
first; a row gives the same bytes alone, at any place in a batch and on any number of threads;
arrays that are not contiguous or not aligned give the same bytes; empty axes are taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import engine
from engine.plan import lowering
from tests.engine.equality import assert_equal
from tests.engine.plan.lower.example import Sizes
from tests.engine.plan.lower.examples import EXAMPLES, REWRITTEN, UNREACHED

Array = np.ndarray[Any, Any]
A, B, C = {"n": 3, "w": 7}, {"n": 1, "w": 16}, {"n": 5, "w": 1}
LARGE = {"n": 37, "w": 61}
"""Enough work that threads share it."""


def test_every_lowering_has_an_example() -> None:
    missing = lowering.lowerings().keys() - EXAMPLES.keys() - UNREACHED.keys()
    assert not missing, f"add a model for {sorted(missing)} to tests/engine/plan/lower/examples.py"
    gone = (EXAMPLES.keys() | UNREACHED.keys()) - lowering.lowerings().keys()
    assert not gone, f"examples of lowerings that do not exist: {sorted(gone)}"


class Sessions:
    """An example on one thread and on two, and in another implementation."""

    def __init__(self, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.key, self.example = key, EXAMPLES[key]
        self.reached: set[str] = set()
        for name, function in lowering.lowerings().items():
            monkeypatch.setitem(lowering._REGISTRY, name, self._recording(name, function))
        self.model = self.example.model()
        self.sessions = [engine.load(self.model, threads=threads) for threads in (1, 2)]
        assert not self.sessions[0].explain().fallbacks, self.sessions[0].explain().fallbacks
        self.oracle = oracle(self.model)

    def _recording(self, name: str, function: lowering.Lower) -> lowering.Lower:
        def lower(node: Any, low: Any) -> None:
            function(node, low)
            self.reached.add(name)

        return lower

    def run(self, feeds: dict[str, Array], session: int = 1) -> list[Array]:
        results = self.sessions[session].run(feeds)
        return [results[name] for name in self.example.outputs]


def oracle(model: bytes) -> Any:
    """onnxruntime, or the onnx package where it has no such operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's errors have no base of their own
        return ReferenceEvaluator(onnx.ModelProto.FromString(model))


@pytest.fixture(params=sorted(EXAMPLES), scope="module")
def sessions(request: pytest.FixtureRequest) -> Iterator[Sessions]:
    with pytest.MonkeyPatch.context() as patch:
        made = Sessions(request.param, patch)
    lowered = REWRITTEN.get(request.param, request.param)
    assert lowered in made.reached, f"the example reaches only {sorted(made.reached)}"
    yield made
    for session in made.sessions:
        session.close()


def same_bytes(found: list[Array], wanted: list[Array]) -> None:
    for first, second in zip(found, wanted, strict=True):
        assert (first.shape, first.dtype) == (second.shape, second.dtype)
        assert first.tobytes() == second.tobytes()


def test_shapes_in_any_order_equal_the_oracle(sessions: Sessions) -> None:
    first: dict[str, list[Array]] = {}
    for name, sizes in (("A", A), ("B", B), ("A", A), ("C", C)):
        feeds = sessions.example.feeds(sizes)
        found = sessions.run(feeds)
        for got, wanted in zip(found, expected(sessions, feeds), strict=True):
            assert_equal(got, wanted, f"shape {name}")
        same_bytes(found, first.setdefault(name, found))


def expected(sessions: Sessions, feeds: dict[str, Array]) -> list[Array]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found: list[Array] = sessions.oracle.run(list(sessions.example.outputs), feeds)
    return [np.asarray(array) for array in found]


@pytest.mark.parametrize("sizes", [C | {"w": 9}, LARGE], ids=["small", "large"])
def test_rows_do_not_depend_on_their_batch(sessions: Sessions, sizes: Sizes) -> None:
    example = sessions.example
    feeds = example.feeds(sizes, seed=3)
    whole = sessions.run(feeds)
    same_bytes(sessions.run(feeds, session=0), whole)
    if not example.rows:
        return
    rows = sizes["n"]
    for chosen in ([0], [rows - 1], [2, 1], list(range(rows - 1, -1, -1))):
        part = {k: a[chosen] if example.has_rows(k) else a for k, a in feeds.items()}
        for session in (0, 1):
            same_bytes(sessions.run(part, session), [array[chosen] for array in whole])


def unaligned(array: Array) -> Array:
    memory = np.empty(array.nbytes + 1, np.uint8)
    found: Array = memory[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def strided(array: Array) -> Array:
    found = np.empty((*array.shape, 3), array.dtype)
    found[..., 1] = array
    return found[..., 1]


def reversed_twice(array: Array) -> Array:
    return np.ascontiguousarray(array.T[::-1])[::-1].T


@pytest.mark.parametrize("form", [unaligned, strided, reversed_twice])
def test_arrays_may_lie_anyhow(sessions: Sessions, form: Any) -> None:
    feeds = sessions.example.feeds(A)
    formed = {name: form(array) for name, array in feeds.items()}
    same_bytes(sessions.run(formed), sessions.run(feeds))


def test_empty_axes_are_taken(sessions: Sessions) -> None:
    if sessions.key.startswith("Reduce"):
        # onnxruntime 1.31 gives [0, 7, 5] for the sum of [0, 7, 5] along its last axis.
        sessions.oracle = ReferenceEvaluator(onnx.ModelProto.FromString(sessions.model))
    for axis in sessions.example.zero:
        feeds = sessions.example.feeds(A | {axis: 0})
        for got, wanted in zip(sessions.run(feeds), expected(sessions, feeds), strict=True):
            assert_equal(got, wanted, f"{axis} = 0")
