"""Operands of element-wise operators, and how a node is lowered alone and evaluated elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from engine.graph.dims import Dim
from engine.graph.ir import Node, Value
from engine.plan.lowering import lowering_of
from tests.engine.harness import ISAS
from tests.engine.lowered import Bench

Array = np.ndarray[Any, Any]
OPSET = 21
RNG = np.random.default_rng(11)


def model_of(op: str, arrays: list[Array], attributes: dict[str, Any], opset: int) -> Any:
    names = [f"x{i}" for i in range(len(arrays))]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for name, a in zip(names, arrays, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def oracle(op: str, arrays: list[Array], attributes: dict[str, Any], opset: int = OPSET) -> Array:
    """onnxruntime's result, or the reference evaluator's where onnxruntime has no such kernel."""
    model = model_of(op, arrays, attributes, opset)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with np.errstate(all="ignore"):
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            (result,) = session.run(None, feeds)
        except Exception:
            (result,) = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(result)


def ours(
    isa: str,
    op: str,
    arrays: list[Array],
    attributes: dict[str, Any],
    dtype: Any,
    opset: int = OPSET,
    constants: tuple[int, ...] = (),
    pieces: int = 1,
    domain: str = "",
) -> Array:
    bench = Bench(isa, static=True)
    values: list[Value | None] = []
    for i, array in enumerate(arrays):
        value = bench.value(array, f"x{i}")
        if i in constants:
            value.data = array
        values.append(value)
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    out = Value("y", np.dtype(dtype), tuple(Dim.of(n) for n in shape))
    node = Node(op, values, [out], attributes, domain, opset)
    bench.low.node = node
    lowering_of(node)(node, bench.low)
    assert bench.execute(pieces) == 0
    return bench.array(bench.low.tensors[id(out)])


def agree(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected)
        return
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    finite = expected[np.isfinite(expected)]
    scale = np.abs(finite).max() if finite.size else 0.0
    with np.errstate(all="ignore"):
        same = (found == expected) | (np.abs(found - expected) <= 1e-5 * scale + 1e-6)
    assert np.all(same | np.isnan(expected)), (found[~same], expected[~same])


def floats(dtype: Any = np.float32, size: int = 301) -> Array:
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -0.5, 20.0, -20.0]
    values = np.concatenate([special, RNG.uniform(-6, 6, size - len(special))])
    return values.astype(dtype)


def integers(dtype: Any, size: int = 301) -> Array:
    info = np.iinfo(dtype)
    special = np.array([info.min, info.max, 0, 1, 2], dtype)
    low, high = max(info.min, -100), min(info.max, 100)
    return np.concatenate([special, RNG.integers(low, high, size - 5).astype(dtype)])


def rotated(*case: Any) -> str:
    """One instruction set per case, all of them over the cases: for large tables of types."""
    return ISAS[sum(map(ord, repr(case))) % len(ISAS)]
