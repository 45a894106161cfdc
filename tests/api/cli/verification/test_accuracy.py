"""bf16 beside fp32: errors, labels, what is suggested to stay in fp32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from api.cli.verification.accuracy import errors
from tests.api.cli.conftest import Invoke
from tests.engine.models import chain, serialise, tensor

RNG = np.random.default_rng(5)


@pytest.fixture
def sensitive(tmp_path: Path) -> Path:
    """Three products, of which the last cancels two columns that are nearly equal."""
    column = RNG.standard_normal((32, 1)).astype(np.float32) + 3
    weights = {
        "a": np.eye(32, dtype=np.float32),
        "b": np.eye(32, dtype=np.float32) * 2,
        "c": np.concatenate([column, column * np.float32(1.001)], 1),
        "d": np.array([[1], [-1]], np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "first"),
        helper.make_node("Softmax", ["p"], ["q"], "between", axis=-1),
        helper.make_node("MatMul", ["q", "b"], ["r"], "second"),
        helper.make_node("Softmax", ["r"], ["s"], "again", axis=-1),
        helper.make_node("MatMul", ["s", "c"], ["t"], "third"),
        helper.make_node("Softmax", ["t"], ["u"], "last", axis=-1),
        helper.make_node("ReduceSum", ["t", "one"], ["v"], "sum", keepdims=1),
        helper.make_node("Mul", ["t", "sign"], ["w"], "signed"),
        helper.make_node("ReduceSum", ["w", "one"], ["y"], "difference", keepdims=1),
    ]
    weights |= {"one": np.array([1], np.int64), "sign": np.array([1, -1], np.float32)}
    path = tmp_path / "sensitive.onnx"
    path.write_bytes(serialise(nodes, [tensor("x", ["n", 32])], ["y"], weights))
    return path


def test_errors_are_relative_over_all_cases() -> None:
    wanted = [{"y": np.array([3.0, 4.0])}, {"y": np.array([0.0, 12.0])}]
    found = [{"y": np.array([3.0, 4.5])}, {"y": np.array([1.2, 12.0])}]
    (error,) = errors(wanted, found)
    assert error.max_error == pytest.approx(1.2)
    assert error.largest == 12
    assert error.relative == pytest.approx(1.3 / 13)


def test_what_is_no_float_counts_by_the_share_that_differs() -> None:
    wanted = [{"i": np.array([1, 2, 3, 4])}]
    assert errors(wanted, [{"i": np.array([1, 2, 3, 4])}])[0].relative == 0
    assert errors(wanted, [{"i": np.array([1, 2, 3, 5])}])[0].relative == 0.5


def test_what_cannot_be_compared_is_over_any_budget() -> None:
    for other in (np.zeros(2), np.array([1.0, np.nan, 1.0])):
        (error,) = errors([{"y": np.ones(3)}], [{"y": other}])
        assert error.relative == float("inf")
        assert error.problem
    (error,) = errors([{"y": [np.ones(3)]}], [{"y": [np.ones(3), np.ones(3)]}])
    assert error.relative == float("inf")


def test_within_the_budget(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    path.write_bytes(chain(48, 3))
    done = invoke("verify", path, "--precision", "bf16")
    assert done.code == 0, done.err
    assert "bf16 in 3 of 3 products, emulated" in done.out
    assert "Every output is within 2.000% of fp32." in done.out
    assert json.loads(invoke("verify", path, "--precision", "bf16", "--json").out)["worst"] > 1e-4


def test_products_that_exceed_the_budget_are_suggested(invoke: Invoke, sensitive: Path) -> None:
    arguments = ("verify", sensitive, "--precision", "bf16", "--cases", 1)
    done = invoke(*arguments)
    assert done.code == 1
    assert "The budget of 2.000% is exceeded." in done.out
    found = json.loads(invoke(*arguments, "--json").out)
    assert found["kept"][0] == "third"
    assert found["left"] <= 0.02 < found["worst"]
    flags = [text for name in found["kept"] for text in ("--fp32-node", name)]
    again = invoke(*arguments, *flags)
    assert again.code == 0, again.out
    assert json.loads(invoke(*arguments, *flags, "--json").out)["worst"] == found["left"]


def test_right_answers_are_counted(invoke: Invoke, digits: Path, tmp_path: Path) -> None:
    folder = digits.parent / "images"
    images = sorted(p.name for p in folder.iterdir())
    labels = {name: int(name[0]) for name in images} | {images[0]: 9}
    right = sum(name[0] == str(label) for name, label in labels.items())
    file = tmp_path / "right.json"
    file.write_text(json.dumps(labels))
    done = invoke("verify", digits, "-i", folder, "--precision", "bf16", "--labels", file)
    assert done.code == 0, done.err
    count = f"right of {len(labels)} labelled cases: {right} in fp32, {right} in bf16"
    assert count in done.out


def test_a_folder_brings_its_labels_and_wrong_ones_are_refused(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "chain.onnx"
    path.write_bytes(chain(48, 1))
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    np.save(inputs / "one.npy", np.ones((1, 48), np.float32))
    (inputs / "labels.json").write_text('{"one.npy": 3}')
    done = invoke("verify", path, "-i", inputs, "--precision", "bf16")
    assert "right of 1 labelled cases: " in done.out
    (inputs / "labels.json").write_text('{"two.npy": 3}')
    done = invoke("verify", path, "-i", inputs, "--precision", "bf16")
    assert (done.code, "no such inputs" in done.err) == (2, True)
    (inputs / "labels.json").write_text('["one"]')
    assert invoke("verify", path, "-i", inputs, "--precision", "bf16").code == 2
