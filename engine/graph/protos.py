"""Nodes of the typed graph in ONNX's own form, for what the onnx package does with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TypeProto, defs, helper, numpy_helper

from engine.errors import ModelError
from engine.graph.ir import Node, Value


def schema_of(node: Node) -> defs.OpSchema:
    """Schema of a node's operator and version; ModelError where the onnx package knows none."""
    try:
        return defs.get_schema(node.op, node.version, node.domain)
    except defs.SchemaError:
        raise ModelError(
            f"node {node.label!r}: operator {node.key} has neither a kernel nor a reference "
            "implementation here; export the model with standard ONNX operators"
        ) from None


def node_proto(node: Node, defaults: bool = False) -> NodeProto:
    """ONNX form of a node without subgraphs, on inputs ``x0, x1, ..`` and outputs ``y0, y1, ..``.

    Where a later version changed the default of an attribute, the default of the node's version is
    written out, because the reference implementation fills in the newest; with `defaults` every
    attribute that has one is.
    """
    proto = NodeProto(op_type=node.op, domain=node.domain, name=node.name)
    proto.input.extend("" if value is None else f"x{i}" for i, value in enumerate(node.inputs))
    proto.output.extend(f"y{i}" if value.name else "" for i, value in enumerate(node.outputs))
    schema = schema_of(node)
    attributes = dict(node.attributes)
    for name, value in attributes.items():
        kind = _type_number(schema.attributes[name]) if name in schema.attributes else None
        proto.attribute.append(_attribute(name, value, kind))
    newest = defs.get_schema(node.op, domain=node.domain).attributes
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        changed = name not in newest or newest[name].default_value != default
        if name not in attributes and default.type and (changed or defaults):
            proto.attribute.append(default)
    return proto


def type_proto(value: Value) -> TypeProto:
    """ONNX form of a tensor's data type and shape, as far as they are known."""
    if value.dtype is None:
        return TypeProto()
    shape = None
    if value.shape is not None:
        shape = [dim.value if dim.is_constant else None for dim in value.shape]
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), shape)


def _type_number(attribute: Any) -> int:
    return int(attribute.type.value)


def _attribute(name: str, value: Any, kind: int | None) -> onnx.AttributeProto:
    if isinstance(value, np.ndarray):
        value = numpy_helper.from_array(value)
    elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        value = [numpy_helper.from_array(item) for item in value]
    return helper.make_attribute(name, value, attr_type=kind)
