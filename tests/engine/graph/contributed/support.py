"""One contributed operator: expanded and evaluated node by node, compared with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from engine.graph.ir import Graph
from engine.graph.reader import read
from tests.engine.graph.support import interpret, run_oracle

Array = np.ndarray[Any, Any]
DOMAIN = "com.microsoft"


def model_of(
    op: str,
    inputs: dict[str, Array],
    *,
    constants: Sequence[str] = (),
    order: Sequence[str] | None = None,
    outputs: Sequence[str] = ("y",),
    domain: str = DOMAIN,
    **attributes: Any,
) -> bytes:
    """Model of one node; axes of inputs that are no constants are symbolic, the last ones fixed."""
    names = list(order) if order is not None else list(inputs)
    node = onnx.helper.make_node(op, names, list(outputs), "node", domain=domain, **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(
            name,
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            [f"{name}{i}" if i < array.ndim - 1 else n for i, n in enumerate(array.shape)],
        )
        for name, array in inputs.items()
        if name not in constants
    ]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs if name]
    weights = [onnx.numpy_helper.from_array(inputs[name], name) for name in constants]
    graph = onnx.helper.make_graph([node], op, infos, results, weights)
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    return bytes(model.SerializeToString())


def check(
    op: str,
    inputs: dict[str, Array],
    *,
    constants: Sequence[str] = (),
    steps: int = 0,
    known: bool = True,
    **more: Any,
) -> Graph:
    """The expansion equals onnxruntime; integers may differ by `steps` in one element of fifty.

    Types and ranks of the outputs are inferred, unless not `known`.
    """
    data = model_of(op, inputs, constants=constants, **more)
    feed = {name: array for name, array in inputs.items() if name not in constants}
    graph = read(data)
    assert all(node.domain != DOMAIN for node in graph.nodes)
    expected = run_oracle(data, feed)
    with np.errstate(all="ignore"):
        found = interpret(graph, feed)
    for value, mine, theirs in zip(graph.outputs, found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        if known:
            assert value.dtype == theirs.dtype
            assert value.shape is not None
            assert len(value.shape) == theirs.ndim
        if theirs.dtype.kind == "f":
            bound = 1e-4 * float(np.abs(theirs).max(initial=0)) + 1e-5
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=bound)
        else:
            difference = np.abs(mine.astype(np.int64) - theirs.astype(np.int64))
            assert difference.max(initial=0) <= steps
            assert np.count_nonzero(difference) <= max(difference.size // 50, 1 if steps else 0)
    return graph
