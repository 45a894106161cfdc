"""Reader and fallback against the onnx package's stored cases for every operator."""

import warnings
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from engine.graph.reader import read
from engine.graph.verify import verify
from engine.runtime.reference import Interpreter

EXPECTED_FAILURES = {
    "test_bernoulli": "random results",
    "test_flexattention": "preview operator with subgraphs",
    "test_if_opt": "its stored output is the element of a list",
    "test_quantizelinear_blocked_symmetric": "its stored output has no element type",
    "test_scan_sum": "Scan of opset 8",
    "test_scatter_with": "Scatter exists only after opset_upgrade, as ScatterElements",
}


def array(item: Any) -> Any:
    if isinstance(item, TensorProto):
        return numpy_helper.to_array(item)
    return np.asarray(item) if np.isscalar(item) else item


def assert_close(actual: Any, expected: Any, case: Any) -> None:
    if isinstance(expected, list):
        assert len(actual) == len(expected)
        for left, right in zip(actual, expected, strict=True):
            assert_close(left, right, case)
        return
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind in "OSU":
        assert np.array_equal(actual, expected)
    else:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        tolerance = {"rtol": max(case.rtol or 0, 1e-3), "atol": max(case.atol or 0, 1e-5)}
        np.testing.assert_allclose(actual.astype(wide), expected.astype(wide), **tolerance)


@pytest.mark.slow
def test_every_case() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [c for c in collect_testcases(None) if c.model is not None]
        failures: dict[str, str] = {}
        for case in cases:
            if any(case.name.startswith(name) for name in EXPECTED_FAILURES):
                continue
            try:
                graph = read(case.model.SerializeToString())
                verify(graph)
                for inputs, outputs in case.data_sets:
                    feed = [array(item) for item in inputs][: len(graph.inputs)]
                    assert_close(Interpreter(graph).run(feed), [array(o) for o in outputs], case)
            except Exception as error:  # every failing case is reported, of whatever kind
                failures[case.name] = f"{type(error).__name__}: {error}"[:200]
    assert len(cases) > 1000
    assert not failures
