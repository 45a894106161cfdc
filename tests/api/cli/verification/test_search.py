"""Naming the first node that differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from api.cli.verification import references
from api.cli.verification.agreement import TOLERANCES
from api.cli.verification.references import OnnxruntimeReference
from api.cli.verification.search import Search
from engine.explanation import Explanation
from tests.engine.models import chain

LAYERS = 4
MODEL = onnx.ModelProto.FromString(chain(width=8, layers=LAYERS))
INPUTS = {"x": np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)}


def search(reference: str = "onnxruntime") -> Search:
    return Search(MODEL, reference, TOLERANCES["fp32"], 1, None)


@pytest.mark.parametrize("reference", references.MAKERS)
def test_equal_models_differ_nowhere(reference: str) -> None:
    assert search(reference).first(INPUTS, ["y"]) is None


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_node_of_changed_weights_is_named(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(model: onnx.ModelProto, outputs: Sequence[str]) -> OnnxruntimeReference:
        for tensor in model.graph.initializer:
            if tensor.name == f"w{layer}":
                array = onnx.numpy_helper.to_array(tensor) * np.float32(1.5)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        return OnnxruntimeReference(model, outputs)

    monkeypatch.setitem(references.MAKERS, "onnxruntime", changed)
    found = search().first(INPUTS, ["y"])
    assert found is not None
    assert (found.node, found.op, found.difference.output) == (f"p{layer}", "MatMul", f"p{layer}")
    assert not found.fused
    assert found.kernels == "dot"
    assert f"node 'p{layer}' (MatMul)" in found.describe()


class FusedFault:
    """A session that is right about every value together with others, wrong about some alone."""

    def __init__(self, names: Sequence[str], wrong: Sequence[str]) -> None:
        self.names, self.wrong = list(names), wrong

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        results = OnnxruntimeReference(search()._with_outputs(self.names), self.names).run(inputs)
        if len(self.names) == 1 and self.names[0] in self.wrong:
            results[self.names[0]] += 1
        return results

    def explain(self) -> Explanation:
        return Explanation("m", "avx2", 1, 0, 0, (), (), 0)


def test_a_fault_of_a_fused_kernel_is_found_by_cutting(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ["v1", "p2", "s2", "v2", "p3", "s3", "y"]
    monkeypatch.setattr(Search, "_load", lambda self, names: FusedFault(names, wrong))
    found = search().first(INPUTS, ["y"])
    assert found is not None
    assert (found.node, found.op, found.fused) == ("v1", "Relu", True)
    assert "only when fused" in found.describe()
