"""Features, labels and linear models in terms of standard operators, beside onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from benchmarks.models.trees import classifier, drawn, regressor
from engine.graph.batching import batch_axis
from engine.graph.inference import infer
from engine.graph.ir import Graph
from engine.graph.passes import classical
from engine.graph.passes.manager import run
from engine.graph.reader import read
from tests.engine.equality import assert_equal
from tests.engine.graph.contributed.support import model_of
from tests.engine.graph.support import interpret, run_oracle

Array = np.ndarray[Any, Any]
DOMAIN = "ai.onnx.ml"
_examples = settings(max_examples=10, deadline=None)
numbers = st.sampled_from([np.float32, np.float64, np.int64, np.int32])


def rows(count: int, width: int, dtype: Any = np.float32) -> Array:
    x = np.random.default_rng(count + width).normal(size=(count, width)) * 3
    return np.round(x, 1).astype(dtype)


def data_of(op: str, inputs: dict[str, Array], version: int = 3, **more: Any) -> bytes:
    model = onnx.load_from_string(model_of(op, inputs, domain=DOMAIN, **more))
    model.opset_import.add(domain=DOMAIN, version=version)
    return bytes(model.SerializeToString())


def check(op: str, inputs: dict[str, Array], **more: Any) -> None:
    data = data_of(op, inputs, **more)
    feed = {n: a for n, a in inputs.items() if n not in more.get("constants", ())}
    graph = read(data)
    (report,) = run(graph, (classical,))
    assert not report.notes
    assert all(node.domain != DOMAIN for node in graph.nodes)
    with np.errstate(all="ignore"):
        found = interpret(graph, feed)
    for mine, theirs in zip(found, run_oracle(data, feed), strict=True):
        assert_equal(mine, theirs)


@given(count=st.integers(1, 5), dtype=numbers, single=st.booleans())
@_examples
def test_scaler(count: int, dtype: Any, single: bool) -> None:
    offset, scale = [0.5, -1.0, 2.0], [1.5, 0.25, -2.0]
    size = 1 if single else 3
    check("Scaler", {"x": rows(count, 3, dtype)}, offset=offset[:size], scale=scale[:size])


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@given(count=st.integers(1, 5), dtype=numbers)
@_examples
def test_normalizer(norm: str, count: int, dtype: Any) -> None:
    x = np.abs(rows(count, 4, dtype)) if norm == "MAX" else rows(count, 4, dtype)
    x[0] = 0
    check("Normalizer", {"x": x}, norm=norm)


@given(count=st.integers(1, 5), missing=st.booleans(), single=st.booleans())
@_examples
def test_imputer(count: int, missing: bool, single: bool) -> None:
    x = rows(count, 3)
    x[0, 1] = np.nan if missing else 7.0
    values = [1.5, 2.5, 3.5][: 1 if single else 3]
    replaced = float("nan") if missing else 7.0
    check("Imputer", {"x": x}, imputed_value_floats=values, replaced_value_float=replaced)
    whole = rows(count, 3, np.int64)
    whole[0, 1] = 9
    check("Imputer", {"x": whole}, imputed_value_int64s=[4], replaced_value_int64=9)


def test_binarizer_and_extractor() -> None:
    x = rows(4, 5)
    check("Binarizer", {"x": x}, threshold=0.4)
    check("ArrayFeatureExtractor", {"x": x, "i": np.array([3, 0, 3])}, constants=["i"])
    check("ArrayFeatureExtractor", {"x": x, "i": np.array([[1, 2]])})


def test_vectorizer() -> None:
    inputs = {"x": rows(4, 5), "z": rows(4, 2)}
    check("FeatureVectorizer", inputs, inputdimensions=[5, 2])


@given(count=st.integers(1, 5), dtype=st.sampled_from([np.float32, np.int64]))
@_examples
def test_one_hot(count: int, dtype: Any) -> None:
    check("OneHotEncoder", {"x": rows(count, 3, dtype)}, cats_int64s=[-2, 0, 1, 3])


@given(
    many=st.booleans(),
    keys=st.sampled_from(["int64s", "floats"]),
    values=st.sampled_from(["int64s", "floats"]),
)
@_examples
def test_label_encoder(many: bool, keys: str, values: str) -> None:
    rng = np.random.default_rng(int(many))
    listed = rng.permutation(200 if many and keys == "int64s" else 20) - 8
    x = rng.integers(-20, 230, (6, 7)).astype(np.int64 if keys == "int64s" else np.float32)
    x[0] = listed[:7]
    attributes: dict[str, Any] = {
        f"keys_{keys}": listed.astype(x.dtype).tolist(),
        f"values_{values}": (listed * 3 % 17 + (0.5 if values == "floats" else 0)).tolist(),
    }
    name = "default_int64" if values == "int64s" else "default_float"
    check("LabelEncoder", {"x": x}, **attributes, **{name: -7 if values == "int64s" else -7.5})


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_linear_models(transform: str, classes: int, dtype: Any) -> None:
    x = rows(6, 4, dtype)
    weights = np.random.default_rng(classes).normal(size=(classes, 4)).reshape(-1).tolist()
    more: dict[str, Any] = {"coefficients": weights, "intercepts": [0.3, -0.2, 0.1][:classes]}
    if dtype is np.float32:
        check("LinearRegressor", {"x": x}, targets=classes, post_transform=transform, **more)
    if classes == 1 and transform not in ("NONE", "LOGISTIC"):
        return
    labels = {"classlabels_ints": [3, 5, 8]} if classes > 1 else {"classlabels_strings": "ab"}
    labels = {k: list(v) for k, v in labels.items()}
    outputs = ["label", "scores"]
    more |= {"outputs": outputs, "post_transform": transform, **labels}
    check("LinearClassifier", {"x": x}, **more)


def test_rows_of_trees_may_share_a_batch_but_features_may_not_depend_on_them() -> None:
    data = regressor(drawn(0, 3, 9, 5), 5)
    assert batch_axis(read_inferred(data)).independent
    x = {"x": rows(4, 5), "i": np.array([1, 2])}
    model = onnx.load_from_string(data_of("ArrayFeatureExtractor", x))
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "x0"
    assert not batch_axis(read_inferred(model.SerializeToString())).independent


def read_inferred(data: bytes) -> Graph:
    graph = read(data)
    infer(graph)
    return graph


def test_maps() -> None:
    """Rows of scores as maps, after a classifier; texts to numbers and back."""
    helper = onnx.helper
    model = onnx.load_from_string(classifier(drawn(0, 3, 9, 5, 3), 5, ["a", "b", "c"]))
    labels = {"classlabels_strings": ["a", "b", "c"]}
    model.graph.node.append(helper.make_node("ZipMap", ["scores"], ["p"], domain=DOMAIN, **labels))
    model.graph.output.pop()
    model.graph.output.append(helper.make_empty_tensor_value_info("p"))
    kind = model.graph.output[1].type.sequence_type.elem_type.map_type
    kind.key_type, kind.value_type.tensor_type.elem_type = 8, 1
    x = rows(3, 5)
    data = model.SerializeToString()
    found, expected = engine.load(data).run({"x": x}), run_oracle(data, {"x": x})
    np.testing.assert_array_equal(found["label"], expected[0])
    for mine, theirs in zip(found["p"], expected[1], strict=True):
        assert mine == pytest.approx(theirs)


def test_a_pipeline_runs_natively() -> None:
    """Missing values filled, scaled, classified."""
    helper = onnx.helper
    nodes = [
        helper.make_node(
            "Imputer",
            ["x"],
            ["a"],
            domain=DOMAIN,
            imputed_value_floats=[0.5, 1.5, -1.0],
            replaced_value_float=float("nan"),
        ),
        helper.make_node(
            "Scaler", ["a"], ["s"], domain=DOMAIN, offset=[1.0, 2.0, 3.0], scale=[0.5, 2.0, 1.0]
        ),
        helper.make_node(
            "LinearClassifier",
            ["s"],
            ["label", "scores"],
            domain=DOMAIN,
            coefficients=np.random.default_rng(0).normal(size=9).tolist(),
            intercepts=[0.1, 0.2, 0.3],
            classlabels_ints=[0, 1, 2],
            post_transform="SOFTMAX",
        ),
    ]
    infos = [helper.make_tensor_value_info("x", 1, ["N", 3])]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in ("label", "scores")]
    graph = helper.make_graph(nodes, "pipeline", infos, results)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 3)]
    data = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    session = engine.load(data)
    assert session.explain().fallback_count == 0
    assert session.batch_axis, session.batch_reason
    for count in (1, 5, 40):
        x = rows(count, 3)
        x[0, 1] = np.nan
        found = session.run({"x": x})
        for mine, theirs in zip(found.values(), run_oracle(data, {"x": x}), strict=True):
            assert_equal(mine, theirs)
