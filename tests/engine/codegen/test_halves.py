"""Conversions of the 16-bit floats, against numpy's and ml_dtypes'."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import engine
from tests.engine.harness import ISAS

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def cast(array: np.ndarray[Any, Any], to: Any, isa: str) -> np.ndarray[Any, Any]:
    """The array converted by the engine."""
    numbers = [onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in (array.dtype, to)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["x"], ["y"], to=numbers[1])],
        "cast",
        [onnx.helper.make_tensor_value_info("x", numbers[0], ["n"])],
        [onnx.helper.make_tensor_value_info("y", numbers[1], ["n"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    session = engine.load(model.SerializeToString(), isa=isa)
    assert session.explain().fallback_count == 0
    return session.run({"x": array})["y"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_half_widens_exactly(kind: str, isa: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(KINDS[kind])
    np.testing.assert_array_equal(cast(halves, np.float32, isa), halves.astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
def test_narrowing_rounds_to_the_nearest_even(kind: str, isa: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(KINDS[kind])
    exact = halves[np.isfinite(halves.astype(np.float32))].astype(np.float32)
    ties = exact[:-1] / 2 + exact[1:] / 2
    bits = np.random.default_rng(0).integers(0, 1 << 32, 50_001, dtype=np.uint32)
    values = np.concatenate(
        [exact, ties, np.nextafter(ties, 9e9), np.nextafter(ties, -9e9), bits.view(np.float32)]
    ).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(KINDS[kind])
    found = cast(values, KINDS[kind], isa)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_integers_and_bools_go_by_way_of_float32(kind: str) -> None:
    halves = np.array([-3.5, 0.0, 2.75, 100.0]).astype(KINDS[kind])
    np.testing.assert_array_equal(cast(halves, np.int32, ISAS[0]), [-3, 0, 2, 100])
    np.testing.assert_array_equal(cast(halves, np.bool_, ISAS[0]), [True, False, True, True])
    whole = np.array([-3, 0, 100], np.int64)
    np.testing.assert_array_equal(cast(whole, KINDS[kind], ISAS[0]).astype(np.int64), whole)
