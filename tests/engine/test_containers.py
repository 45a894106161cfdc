"""Sequences and optionals as inputs and outputs of sessions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import engine

FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
SEQUENCE = helper.make_sequence_type_proto(FLOAT)


def session(op: str, source: object, outcome: object) -> engine.Session:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        op,
        [helper.make_value_info("x", source)],
        [helper.make_value_info("y", outcome)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return engine.load(model.SerializeToString(), threads=1)


def test_sequences_go_in_and_out_as_lists() -> None:
    loaded = session("Identity", SEQUENCE, SEQUENCE)
    assert [spec.kind for spec in (*loaded.inputs, *loaded.outputs)] == ["sequence", "sequence"]
    given = [np.float32(3).reshape(()), np.ones((2, 3), np.float32).T]
    for _ in range(2):
        found = loaded.run({"x": given})["y"]
        assert [item.shape for item in found] == [(), (3, 2)]
        np.testing.assert_array_equal(found[1], given[1])
    assert loaded.run({"x": []})["y"] == []


def test_an_optional_may_be_none() -> None:
    loaded = session(
        "OptionalHasElement",
        helper.make_optional_type_proto(FLOAT),
        helper.make_tensor_type_proto(TensorProto.BOOL, []),
    )
    assert not loaded.run({"x": None})["y"]
    assert loaded.run({"x": np.zeros(2, np.float32)})["y"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(2, np.float32), "is a ndarray; expected a list of float32 arrays"),
        ([np.zeros(2, np.int64)], "has data type int64"),
        (None, "is a NoneType"),
    ],
)
def test_what_is_no_sequence_is_refused(given: object, message: str) -> None:
    with pytest.raises(engine.InputError, match=message):
        session("Identity", SEQUENCE, SEQUENCE).run({"x": given})
