"""Tree ensembles as sums of leaves and standard operators, in numpy, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from benchmarks.models.trees import TreeLists, classifier, drawn, model, regressor
from engine.errors import ModelError
from engine.graph.passes import classical
from engine.graph.passes.manager import run
from engine.graph.reader import read
from tests.engine.equality import assert_equal
from tests.engine.graph.support import interpret, run_oracle

Array = np.ndarray[Any, Any]
FEATURES = 5
ORDER = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT")
EQUAL = ("BRANCH_EQ", "BRANCH_NEQ")
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")


def rows(seed: int, missing: bool = False) -> Array:
    """Values that often equal a threshold, and some that are missing."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(30, FEATURES)), 1).astype(np.float32)
    if missing:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x


def check(data: bytes, x: Array, theirs: bytes | None = None) -> None:
    graph = read(data)
    (report,) = run(graph, (classical,))
    assert not report.notes
    expected = run_oracle(theirs or data, {"x": x})
    for found, wanted in zip(interpret(graph, {"x": x}), expected, strict=True):
        assert_equal(found, wanted)


@given(
    seed=st.integers(0, 99),
    leaves=st.sampled_from([1, 2, 9, 40]),
    modes=st.sampled_from([ORDER[:1], ORDER, ORDER + EQUAL]),
    missing=st.booleans(),
    outputs=st.sampled_from([1, 3]),
    shared=st.booleans(),
    transform=st.sampled_from(TRANSFORMS),
)
@settings(max_examples=25, deadline=None)
def test_regressor(
    seed: int,
    leaves: int,
    modes: tuple[str, ...],
    missing: bool,
    outputs: int,
    shared: bool,
    transform: str,
) -> None:
    more = {"modes": modes, "missing": missing, "shared": shared}
    lists = drawn(seed, 6, leaves, FEATURES, outputs, **more)
    data = regressor(lists, FEATURES, outputs, post_transform=transform)
    check(data, rows(seed, missing))


@pytest.mark.parametrize("how", ["AVERAGE", "MIN", "MAX", "SUM"])
def test_aggregates_and_base_values(how: str) -> None:
    for outputs, shared in ((1, False), (2, False), (2, True)):
        base = [0.7, -2.0][:outputs]
        lists = drawn(1, 6, 9, FEATURES, outputs, shared=shared)
        data = regressor(lists, FEATURES, outputs, aggregate_function=how, base_values=base)
        check(data, rows(1))


@given(
    seed=st.integers(0, 99),
    who=st.sampled_from(["first", "second", "both", "three"]),
    positive=st.booleans(),
    base=st.integers(0, 2),
    transform=st.sampled_from(TRANSFORMS),
)
@settings(max_examples=25, deadline=None)
def test_classifier(seed: int, who: str, positive: bool, base: int, transform: str) -> None:
    base = 1 if who == "second" and base == 2 else base
    count = {"both": 2, "three": 3}.get(who, 1)
    lists = drawn(seed, 6, 9, FEATURES, count, shared=True, positive=positive)
    if who == "second":
        lists.leaves["ids"] = [1] * len(lists.leaves["ids"])
    labels: list[Any] = ["a", "b", "c"] if seed % 2 else [4, 0, 7]
    # Where both have weights, the other runtime gives 0 and 1 whatever the integer labels are.
    labels = labels if who == "three" else labels[:2] if who != "both" else [0, 1]
    start = [0.1, -0.2, 0.3][: base if who != "three" or not base else 3]
    more: dict[str, Any] = {"base_values": start} if start else {}
    data = classifier(lists, FEATURES, labels, post_transform=transform, **more)
    check(data, rows(seed))


def test_double_precision() -> None:
    attributes = {**drawn(3, 6, 9, FEATURES).attributes("target"), "n_targets": 1}
    data = model("TreeEnsembleRegressor", attributes, FEATURES, dtype=TensorProto.DOUBLE)
    check(data, rows(3).astype(np.float64))


def test_thresholds_in_double_precision() -> None:
    lists = drawn(3, 6, 9, FEATURES)
    attributes = lists.attributes("target")
    for name in ("nodes_values", "target_weights"):
        exact = np.array(attributes.pop(name), np.float64) + 1e-12
        attributes[f"{name}_as_tensor"] = onnx_tensor(exact)
    attributes["n_targets"] = 1
    data = model("TreeEnsembleRegressor", attributes, FEATURES, dtype=TensorProto.DOUBLE)
    check(data, rows(3).astype(np.float64))


def onnx_tensor(array: Array) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(array)


@pytest.mark.parametrize("transform", range(4))
def test_linked_leaves(transform: int) -> None:
    """The newest operator, with a node of membership; two leaves of one node stand apart."""
    attributes = {
        "n_targets": 2,
        "aggregate_function": 1,
        "post_transform": transform,
        "tree_roots": [0, 3],
        "nodes_modes": onnx_tensor(np.array([0, 4, 6, 3], np.uint8)),
        "nodes_featureids": [0, 1, 2, 3],
        "nodes_splits": onnx_tensor(np.array([0.1, 0.2, 0.0, -0.3], np.float32)),
        "nodes_truenodeids": [1, 0, 1, 3],
        "nodes_trueleafs": [0, 1, 1, 1],
        "nodes_falsenodeids": [2, 2, 3, 4],
        "nodes_falseleafs": [0, 1, 1, 1],
        "membership_values": onnx_tensor(np.array([1, 3, 4, np.nan], np.float32)),
        "leaf_targetids": [0, 1, 0, 1, 0],
        "leaf_weights": onnx_tensor(np.array([1.5, -2.0, 0.25, 3.0, -1.0], np.float32)),
    }
    data = model("TreeEnsemble", attributes, FEATURES, version=5)
    # The other runtime takes 1 for LOGISTIC and 2 for SOFTMAX, against the specification.
    attributes["post_transform"] = {1: 2, 2: 1}.get(transform, transform)
    theirs = model("TreeEnsemble", attributes, FEATURES, version=5)
    x = np.concatenate([rows(seed) for seed in range(4)])
    x[:, 2] = np.round(x[:, 2] * 3)
    check(data, x, theirs)


def broken(change: str) -> TreeLists:
    lists = drawn(0, 2, 4, FEATURES)
    inner = lists.nodes["nodes_modes"].index("BRANCH_LEQ")
    if change == "cycle":
        lists.nodes["nodes_truenodeids"][inner + 1] = 0
        lists.nodes["nodes_modes"][inner + 1] = "BRANCH_LEQ"
    elif change == "child":
        lists.nodes["nodes_truenodeids"][inner] = 99
    elif change == "length":
        lists.nodes["nodes_values"].pop()
    else:
        lists.leaves["ids"][0] = 7
    return lists


@pytest.mark.parametrize("how", ["SUM", "MAX"])
@pytest.mark.parametrize("change", ["cycle", "child", "length", "output"])
def test_what_is_no_tree_is_refused(change: str, how: str) -> None:
    data = regressor(broken(change), FEATURES, aggregate_function=how)
    with pytest.raises(ModelError, match=r"TreeEnsembleRegressor.*malformed"):
        run(read(data), (classical,))
