"""Operators of the onnx package's reference implementation, one node at a time.

Importing the implementation takes longer than loading a small model, so `engine.runtime.reference`
imports this module when the first node needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import NodeProto, TypeProto, defs, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpFunction, RuntimeContextError
from onnx.reference.ops import load_op as load_standard
from onnx.reference.ops.aionnx_preview import load_op as load_preview
from onnx.reference.ops.aionnx_preview_training import load_op as load_training
from onnx.reference.ops.aionnxml import load_op as load_ml

from engine.errors import ModelError
from engine.graph.ir import Node
from engine.graph.protos import node_proto, schema_of

_LOADERS: dict[str, Callable[..., Any]] = {
    "": partial(load_standard, evaluator_cls=ReferenceEvaluator),
    "ai.onnx.ml": load_ml,
    "ai.onnx.preview": load_preview,
    "ai.onnx.preview.training": load_training,
}


def reference_operator(node: Node) -> Callable[[list[Any]], Sequence[Any]]:
    """Evaluation of a node without subgraphs: outputs for input arrays, None where omitted.

    Raises ModelError where the operator has no usable reference implementation.
    """
    schema = schema_of(node)
    proto = node_proto(node)
    parameters: dict[str, Any] = {
        "log": lambda *_: None,
        "opsets": {node.domain: node.version},
        "verbose": 0,
        "new_ops": {},
        "existing_functions": {},
        "evaluator_cls": ReferenceEvaluator,
    }
    try:
        return _caller(_load(node)(proto, parameters))
    except RuntimeContextError:
        return _TypedFunction(proto, schema, parameters)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"node {node.label!r}: operator {node.key} (version {node.version}) has no kernel and "
            f"its reference implementation is not usable: {error}"
        ) from error


def _load(node: Node) -> Any:
    """Class that evaluates the operator: of its version, else the newest.

    Some operators have reference classes for their newer versions only, which accept the inputs
    and attributes of older ones.
    """
    load = _LOADERS[node.domain]
    try:
        return load(node.domain, node.op, node.version)
    except (NotImplementedError, RuntimeContextError):
        raise
    except RuntimeError:
        return load(node.domain, node.op, None)


def _caller(operator: Any) -> Callable[[list[Any]], Sequence[Any]]:
    run: Callable[..., Sequence[Any]] = operator.run
    if isinstance(operator, OpFunction):
        count = len(operator.impl_.input_names)
        return lambda arrays: run(*arrays, *[None] * (count - len(arrays)))
    return lambda arrays: run(*arrays)


class _TypedFunction:
    """An operator whose schema defines it as a function that depends on the input types."""

    def __init__(self, proto: NodeProto, schema: defs.OpSchema, parameters: dict[str, Any]) -> None:
        self._proto = proto
        self._version = schema.since_version
        self._parameters = parameters
        self._bodies: dict[tuple[Any, ...], Callable[[list[Any]], Sequence[Any]]] = {}

    def __call__(self, arrays: list[Any]) -> Sequence[Any]:
        key = tuple(None if a is None else np.asarray(a).dtype for a in arrays)
        if key not in self._bodies:
            types = [
                TypeProto()
                if dtype is None
                else helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(dtype), None)
                for dtype in key
            ]
            load = _LOADERS[self._proto.domain]
            make = load(
                self._proto.domain,
                self._proto.op_type,
                self._version,
                node=self._proto,
                input_types=types,
            )
            self._bodies[key] = _caller(make(self._proto, self._parameters))
        return self._bodies[key](arrays)
