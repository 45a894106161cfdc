"""A model evaluated in float64, to tell whose float32 result is the better one.

Some models amplify rounding: a variance computed as E[x^2] - E[x]^2 cancels, and the square root of
next to nothing divides. Two correct float32 evaluations then differ by more than the allowance, and
onnxruntime differs from itself when the same rows come in another batch. Where that happens, both
results are held against this one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from examples.real_input.case import Array, Run, Tensors


class GlobalMaxPool(OpRun):
    """Keeps the rank of its input, as the specification says; the onnx package's own drops axes."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def float64_run(path: Path) -> Run:
    """Runs the model with every float32 tensor in it widened to float64."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        _widen(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            _widen_attribute(node.op_type, attribute)
    del model.graph.value_info[:]
    evaluator = ReferenceEvaluator(model, new_ops=[GlobalMaxPool])

    def run(inputs: Tensors) -> Tensors:
        wide = {name: _wide(array) for name, array in inputs.items()}
        return dict(zip(evaluator.output_names, evaluator.run(None, wide), strict=True))

    return run


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_attribute(operator: str, attribute: Any) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t)
    elif operator == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE
