"""The onnx package's node tests of operators that move data, through the engine.

Parameters (axes, pads, indices of a Slice, ...) become constants and all sizes symbolic, which is
how exporters write them.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import engine
from tests.engine.equality import assert_equal

OPERATORS = [
    "ArgMax",
    "ArgMin",
    "Concat",
    "ConstantOfShape",
    "CumSum",
    "DepthToSpace",
    "Expand",
    "EyeLike",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "OneHot",
    "Pad",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
]
DATA_INPUTS = {"Concat": 99, "OneHot": 1, "ConstantOfShape": 0}
"""Inputs that stay inputs; one where nothing is said."""

EXCLUDED = {
    # Their expected outputs follow a fractional length of the output; onnxruntime rounds it.
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
FALLBACK = ("keep_aspect_ratio_policy",)
"""Reasons for which a node may run on the fallback path."""


@cache
def cases() -> dict[str, list[TestCase]]:
    """Node tests of one node, by operator."""
    found: dict[str, list[TestCase]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            if case.model is not None and len(case.model.graph.node) == 1:
                found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)


def prepared(case: TestCase, op: str) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Model with constant parameters and symbolic sizes, its inputs and expected outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    assert case.data_sets is not None
    given, wanted = case.data_sets[0]
    feeds = {info.name: array(x) for info, x in zip(graph.input, given, strict=True)}
    outputs = {info.name: array(y) for info, y in zip(graph.output, wanted, strict=True)}
    infos = list(graph.input)
    kept = DATA_INPUTS.get(op, 1)
    del graph.input[:]
    graph.input.extend(infos[:kept])
    for info in infos[kept:]:
        graph.initializer.append(onnx.numpy_helper.from_array(feeds.pop(info.name), info.name))
    for info in graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            dim.dim_param = f"{info.name}_{axis}"
    for info in graph.output:
        for dim in info.type.tensor_type.shape.dim:
            dim.Clear()
    return model.SerializeToString(), feeds, outputs


@pytest.mark.slow
@pytest.mark.parametrize("op", OPERATORS)
def test_operator(op: str) -> None:
    ran = 0
    for case in cases()[op]:
        if case.name in EXCLUDED:
            continue
        model, feeds, outputs = prepared(case, op)
        session = engine.load(model, threads=2)
        results = session.run(feeds)
        for operation in session.explain().operations:
            assert operation.native or operation.reason.startswith(FALLBACK), (
                f"{case.name}: {operation.reason}"
            )
        session.close()
        for name, expected in outputs.items():
            assert_equal(results[name], expected, case.name)
        ran += 1
    assert ran
