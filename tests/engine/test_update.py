"""Weight updates: what is packed again, what runs see, what is refused."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.plan.packing import packs_total

Array = np.ndarray[Any, Any]
generator = np.random.default_rng(7)


def draw(*shape: int) -> Array:
    return (generator.standard_normal(shape) * 0.3).astype(np.float32)


def weights() -> dict[str, Array]:
    """Weights of `model`: a convolution with its normalisation, an LSTM, a product."""
    return {
        "filters": draw(8, 3, 3, 3),
        "scale": draw(8) + 1,
        "shift": draw(8),
        "mean": draw(8),
        "variance": np.abs(draw(8)) + 0.5,
        "W": draw(1, 80, 8),
        "R": draw(1, 80, 20),
        "B": draw(1, 160),
        "M": draw(20, 7),
    }


def model(values: dict[str, Array]) -> bytes:
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], epsilon=1e-3
        ),
        helper.make_node("GlobalAveragePool", ["n"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["s"]),
        helper.make_node("LSTM", ["s", "W", "R", "B"], ["", "h"], hidden_size=20),
        helper.make_node("MatMul", ["h", "M"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array([-1, 1, 8]), "shape")
    graph = helper.make_graph(
        nodes,
        "frames",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 7])],
        [numpy_helper.from_array(v, k) for k, v in values.items()] + [shape],
    )
    opset = [helper.make_opsetid("", 14)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def oracle(values: dict[str, Array], x: Array) -> Array:
    found: Array = onnxruntime.InferenceSession(model(values)).run(None, {"x": x})[0]
    return found


def test_exactly_what_changed_is_packed_once() -> None:
    values, x = weights(), draw(4, 3, 6, 6)
    session = engine.load(model(values), threads=1)
    for _ in range(3):
        session.run({"x": x})
    at_load = session.packs_total
    assert set(at_load.values()) == {1}
    depends = {"filters": 0, "scale": 0, "shift": None, "mean": None, "B": None}
    depends |= {"variance": 0, "W": 1, "R": 1, "M": 1}
    for name, packed in depends.items():
        before, total = session.packs_total, packs_total.total
        values[name] = weights()[name]
        session.update_weights({name: values[name]})
        for rows in (4, 2):
            np.testing.assert_allclose(
                session.run({"x": x[:rows]})["y"], oracle(values, x[:rows]), rtol=1e-4, atol=1e-5
            )
        changed = {k for k, count in session.packs_total.items() if count > before.get(k, 0)}
        if packed is None:
            assert not changed
            assert packs_total.total == total
        elif packed:
            assert changed == {name}
            assert session.packs_total[name] == 2
            assert packs_total.total == total + 1
        else:
            # The convolution's filters, with the normalisation folded into them.
            assert len(changed) == 1
            assert not changed & {"W", "R", "M"}
            assert packs_total.total == total + 1


def test_several_weights_change_together(tmp_path: Path) -> None:
    values, x = weights(), draw(3, 3, 5, 5)
    path = tmp_path / "frames.onnx"
    path.write_bytes(model(values))
    session = engine.load(path, threads=1)
    values |= {name: weights()[name] for name in ("filters", "R", "M")}
    session.update_weights({name: values[name] for name in ("filters", "R", "M")})
    np.testing.assert_allclose(session.run({"x": x})["y"], oracle(values, x), rtol=1e-4, atol=1e-5)
    session.update_weights({"R": values["R"]})
    assert session.packs_total["R"] == 2


def test_concurrent_runs_see_old_or_new_weights_and_no_mixture() -> None:
    old, x = weights(), draw(6, 3, 6, 6)
    new = weights()
    session = engine.load(model(old), threads=2)
    states = [session.run({"x": x})["y"].tobytes()]
    session.update_weights(new)
    states.append(session.run({"x": x})["y"].tobytes())
    seen: set[bytes] = set()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            seen.add(session.run({"x": x})["y"].tobytes())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for values in (old, new, old):
        session.update_weights(values)
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= set(states)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter": draw(1)}, "there is no weight 'filter'; did you mean filters"),
        ({"M": draw(7, 20)}, r"weight 'M' is float32 \[20, 7\]; the update is float32 \[7, 20\]"),
        ({"M": np.zeros((20, 7))}, r"the update is float64 \[20, 7\]"),
        ({"M": np.array(["a"], object)}, "no numeric array"),
    ],
)
def test_changes_that_do_not_fit_are_refused(changes: dict[str, Array], message: str) -> None:
    values, x = weights(), draw(2, 3, 5, 5)
    session = engine.load(model(values), threads=1)
    before = session.run({"x": x})["y"]
    with pytest.raises(engine.InputError, match=message):
        session.update_weights(changes)
    np.testing.assert_array_equal(session.run({"x": x})["y"], before)


def test_another_file_under_the_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frames.onnx"
    values = weights()
    path.write_bytes(model(values))
    session = engine.load(path, threads=1)
    other = tmp_path / "other.onnx"
    other.write_bytes(model(weights()))
    other.replace(path)
    with pytest.raises(engine.ModelError, match="not the one that was loaded"):
        session.update_weights({"M": values["M"]})


def test_bytes_that_their_owner_overwrites() -> None:
    values, x = weights(), draw(2, 3, 5, 5)
    source = bytearray(model(values))
    session = engine.load(source, threads=1)  # type: ignore[arg-type]
    source[:] = bytes(len(source))
    values["M"] = draw(20, 7)
    session.update_weights({"M": values["M"]})
    np.testing.assert_allclose(session.run({"x": x})["y"], oracle(values, x), rtol=1e-4, atol=1e-5)


def test_a_closed_session_is_refused() -> None:
    session = engine.load(model(weights()), threads=1)
    session.close()
    with pytest.raises(engine.RunError, match="closed"):
        session.update_weights({"M": draw(20, 7)})
