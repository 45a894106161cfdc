"""Sessions: what a caller may get wrong, and what loading tells."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import engine
from tests.engine.models import chain, serialise, tensor


@pytest.fixture(scope="module")
def session() -> engine.Session:
    return engine.load(chain(width=16, layers=2), threads=2)


def rows(count: int, width: int = 16) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)


def test_specification(session: engine.Session) -> None:
    assert session.inputs == (engine.TensorSpec("x", np.dtype(np.float32), ("rows", 16)),)
    assert session.outputs == (engine.TensorSpec("y", np.dtype(np.float32), ("rows", 16)),)
    assert session.batch_axis, session.batch_reason


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": rows(1), "z": rows(1)}, "there is no input 'z'"),
        ({"x": rows(1).astype(np.int64)}, "has data type int64; expected float32"),
        ({"x": rows(1)[0]}, "has rank 1"),
        ({"x": rows(1, 17)}, r"has shape \(1, 17\); expected float32 \[rows, 16\]"),
        ({"x": np.array([["a"] * 16])}, "has data type"),
    ],
)
def test_wrong_inputs_are_named(
    session: engine.Session, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(engine.InputError, match=message):
        session.run(inputs)


def test_unknown_output_is_named(session: engine.Session) -> None:
    with pytest.raises(engine.InputError, match="there is no output 'q'; outputs are y"):
        session.run({"x": rows(1)}, ["q"])


def test_any_memory_layout_is_read(session: engine.Session) -> None:
    wide = rows(6, 32)
    expected = session.run({"x": np.ascontiguousarray(wide[::2, ::2])})["y"]
    np.testing.assert_array_equal(session.run({"x": wide[::2, ::2]})["y"], expected)
    memory = np.zeros(3 * 16 * 4 + 1, np.uint8)
    unaligned = memory[1:].view(np.float32).reshape(3, 16)
    unaligned[:] = wide[::2, ::2]
    np.testing.assert_array_equal(session.run({"x": unaligned})["y"], expected)


def test_zero_rows(session: engine.Session) -> None:
    assert session.run({"x": rows(0)})["y"].shape == (0, 16)


def test_outputs_belong_to_the_caller(session: engine.Session) -> None:
    first = session.run({"x": rows(3)})["y"]
    kept = first.copy()
    session.run({"x": rows(3) + 1})
    np.testing.assert_array_equal(first, kept)


def test_an_input_that_is_an_output_is_copied() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    session = engine.load(serialise([node], [tensor("x", ["n"])], ["y"]))
    x = np.arange(3, dtype=np.float32)
    y = session.run({"x": x})["y"]
    y[0] = 9
    assert x[0] == 0


def test_shared_symbols_must_agree() -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    inputs = [tensor("a", ["n", 2]), tensor("b", ["n", 2])]
    session = engine.load(serialise([node], inputs, ["y"]))
    with pytest.raises(engine.InputError, match="input 'b' has shape"):
        session.run({"a": np.zeros((2, 2), np.float32), "b": np.zeros((3, 2), np.float32)})


def test_unproven_equalities_are_checked() -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    inputs = [tensor("a", ["m", "k"]), tensor("b", ["l", "n"])]
    session = engine.load(serialise([node], inputs, ["y"]))
    with pytest.raises(engine.InputError, match="inner axes"):
        session.run({"a": np.zeros((2, 3), np.float32), "b": np.zeros((4, 5), np.float32)})


def test_an_index_out_of_range_names_the_node() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="lookup")
    inputs = [tensor("x", ["n"]), tensor("i", ["m"], TensorProto.INT64)]
    session = engine.load(serialise([node], inputs, ["y"]))
    x = np.zeros(4, np.float32)
    with pytest.raises(engine.RunError, match="node lookup"):
        session.run({"x": x, "i": np.array([1, 7], np.int64)})
    np.testing.assert_array_equal(session.run({"x": x, "i": np.array([3, -1])})["y"], [0, 0])


def test_the_compiler_is_not_entered_after_loading() -> None:
    session = engine.load(chain(width=16, layers=3), threads=2)
    compiler = session._pool.compiler
    compiler.sealed = True
    try:
        for count in range(1, 40):
            session.run({"x": rows(count * 7)})
    finally:
        compiler.sealed = False


def test_progress_is_reported(tmp_path: object) -> None:
    seen: list[engine.Progress] = []
    engine.load(chain(width=16, layers=2), cache_dir=str(tmp_path), progress=seen.append)
    stages = [step.stage for step in seen]
    assert stages[0] == "reading"
    assert "compiling" in stages
    assert stages[-1] == "ready"
    compiling = [step for step in seen if step.stage == "compiling"]
    assert compiling[-1].done == compiling[-1].total > 0


def test_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(engine.CompileError, match="no such instruction set"):
        engine.load(chain(width=16, layers=1), isa="mmx")


def test_explanation_names_kernels(session: engine.Session) -> None:
    explanation = session.explain()
    assert explanation.fallback_count == 0
    assert all(operation.kernel == "dot" for operation in explanation.operations)
    assert explanation.packed_bytes >= 2 * 16 * 16 * 4


def test_a_window_larger_than_its_input_is_refused() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[5, 5])
    session = engine.load(serialise([node], [tensor("x", ["n", 3, "h", "w"])], ["y"]))
    assert session.run({"x": np.zeros((1, 3, 6, 6), np.float32)})["y"].shape == (1, 3, 2, 2)
    with pytest.raises(engine.InputError, match="negative length"):
        session.run({"x": np.zeros((1, 3, 2, 9), np.float32)})


def test_sizes_beyond_the_memory_are_refused() -> None:
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    weights = {"shape": np.array([1 << 20, 1 << 10, 1], np.int64)}
    session = engine.load(serialise([node], [tensor("x", ["n"])], ["y"], weights))
    with pytest.raises(engine.InputError, match="GiB for activations"):
        session.run({"x": np.zeros(1 << 10, np.float32)})


def test_shapes_seen_before_are_checked_like_new_ones(session: engine.Session) -> None:
    expected = session.run({"x": rows(5)})["y"]
    np.testing.assert_array_equal(session.run({"x": rows(5)})["y"], expected)
    np.testing.assert_array_equal(session.run({"x": rows(5).tolist()})["y"], expected)
    with pytest.raises(engine.InputError, match="has data type >f4"):
        session.run({"x": rows(5).astype(">f4")})
    for wrong in ({"x": rows(5).astype(np.float64)}, {"z": rows(5)}, {"x": rows(5), "z": rows(5)}):
        with pytest.raises(engine.InputError):
            session.run(wrong)
    with pytest.raises(engine.InputError, match="there is no output 'q'"):
        session.run({"x": rows(5)}, ["q"])
    np.testing.assert_array_equal(session.run({"x": np.repeat(rows(5), 2, 0)[::2]})["y"], expected)


def test_outputs_keep_the_order_of_the_model() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["b"]),
        helper.make_node("Neg", ["b"], ["a"]),
        helper.make_node("Abs", ["x"], ["c"]),
    ]
    session = engine.load(serialise(nodes, [tensor("x", ["n"])], ["c", "a", "b"]))
    x = np.array([-1, 2], np.float32)
    results = session.run({"x": x})
    assert list(results) == ["c", "a", "b"]
    np.testing.assert_array_equal(results["a"], [0, -2])
    np.testing.assert_array_equal(results["b"], [0, 2])
    np.testing.assert_array_equal(results["c"], [1, 2])
    assert list(session.run({"x": x}, ["b"])) == ["b"]


def test_a_closed_session_refuses_to_run() -> None:
    session = engine.load(chain(width=16, layers=1))
    session.run({"x": rows(1)})
    session.close()
    with pytest.raises(engine.RunError, match="was closed"):
        session.run({"x": rows(1)})
