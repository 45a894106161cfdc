"""Tree ensembles natively: both ways through a tree, every form of leaves, any number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import engine
from benchmarks.models.trees import classifier, drawn, model, of_sklearn, regressor
from engine.errors import RunError
from tests.engine.equality import assert_equal
from tests.engine.graph.support import run_oracle
from tests.engine.harness import ISAS

Array = np.ndarray[Any, Any]
FEATURES = 7


def rows(count: int, missing: bool = False) -> Array:
    rng = np.random.default_rng(count)
    x = np.round(rng.normal(size=(count, FEATURES)), 1).astype(np.float32)
    if missing:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x


def check(data: bytes, isa: str | None = None, missing: bool = False, kind: Any = None) -> None:
    """Rows alone, too few for masks, a part of a block, many blocks: equal, and to the byte."""
    session = engine.load(data, threads=2, isa=isa)
    explained = session.explain()
    assert explained.fallback_count == 0, [f"{o.op}: {o.reason}" for o in explained.fallbacks]
    x = rows(210, missing).astype(kind or np.float32)
    together = session.run({"x": x})
    expected = run_oracle(data, {"x": x})
    for found, wanted in zip(together.values(), expected, strict=True):
        assert_equal(found, wanted)
    for start, stop in ((0, 1), (3, 7), (5, 15), (8, 120)):
        apart = session.run({"x": x[start:stop]})
        for name, found in apart.items():
            assert found.tobytes() == together[name][start:stop].tobytes()
    assert all(found.shape[0] == 0 for found in session.run({"x": x[:0]}).values())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("leaves", [1, 31, 64, 90])
def test_one_output(leaves: int, isa: str) -> None:
    check(regressor(drawn(leaves, 13, leaves, FEATURES), FEATURES), isa)


@pytest.mark.parametrize("leaves", [31, 90])
def test_missing_values(leaves: int) -> None:
    lists = drawn(leaves, 13, leaves, FEATURES, missing=True)
    check(regressor(lists, FEATURES), missing=True)


@pytest.mark.parametrize("leaves", [31, 64, 90])
@pytest.mark.parametrize("shared", [False, True])
def test_several_outputs(leaves: int, shared: bool) -> None:
    lists = drawn(leaves, 12, leaves, FEATURES, 3, shared=shared)
    check(classifier(lists, FEATURES, [0, 1, 2], post_transform="SOFTMAX"))


@pytest.mark.parametrize("how", ["MIN", "MAX"])
def test_extrema(how: str) -> None:
    check(regressor(drawn(1, 12, 20, FEATURES), FEATURES, aggregate_function=how))


def test_double_precision() -> None:
    attributes = {**drawn(3, 12, 31, FEATURES).attributes("target"), "n_targets": 1}
    data = model("TreeEnsembleRegressor", attributes, FEATURES, dtype=TensorProto.DOUBLE)
    check(data, kind=np.float64)


def test_equality_walks() -> None:
    modes = ("BRANCH_EQ", "BRANCH_NEQ", "BRANCH_LT", "BRANCH_GT")
    check(regressor(drawn(4, 12, 20, FEATURES, modes=modes), FEATURES))


def test_trees_of_scikit_learn() -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, FEATURES)).astype(np.float32)
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2]
    boosted = ensemble.GradientBoostingRegressor(n_estimators=40, max_depth=4).fit(x, y)
    trained = [(estimator, 0) for estimator in boosted.estimators_[:, 0]]
    base = float(boosted.init_.constant_.item())
    lists = of_sklearn(trained, boosted.learning_rate)
    session = engine.load(regressor(lists, FEATURES, base_values=[base]))
    found = session.run({"x": x})["y"][:, 0]
    np.testing.assert_allclose(found, boosted.predict(x), atol=1e-4)
    forest = ensemble.RandomForestClassifier(20, max_depth=9).fit(x, np.digitize(y, [-0.5, 0.5]))
    lists = of_sklearn([(estimator, 0) for estimator in forest.estimators_], classes=True)
    found = engine.load(classifier(lists, FEATURES, [0, 1, 2])).run({"x": x})["scores"]
    np.testing.assert_allclose(found, forest.predict_proba(x), atol=1e-5)


def test_rows_that_are_too_short_are_refused() -> None:
    """The width of the rows is an input's; nothing may be read behind them."""
    data = regressor(drawn(0, 3, 9, FEATURES), FEATURES)
    import onnx

    proto = onnx.load_from_string(data)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "F"
    session = engine.load(proto.SerializeToString())
    assert session.run({"x": rows(4)})["y"].shape == (4, 1)
    with pytest.raises(RunError, match="outside"):
        session.run({"x": rows(4)[:, :2].copy()})
