"""Data types by the operator schemas of the onnx package.

A schema names the type of every input and output, either a fixed one or a variable that several of
them share; binding the variables at the inputs gives the outputs' types and finds mixed ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from onnx import TensorProto, defs

from engine.errors import ModelError
from engine.graph.ir import Node, Value
from engine.graph.tensors import data_type

_VARIADIC: Final = defs.OpSchema.FormalParameterOption.Variadic


@dataclass(frozen=True)
class Parameter:
    """Type of a formal input or output; `shared` variadic ones have one type for all."""

    name: str
    type: str
    shared: bool


@dataclass(frozen=True)
class Signature:
    """Types of an operator; `allowed` lists the types of each variable."""

    version: int
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    variadic_input: bool
    variadic_output: bool
    allowed: dict[str, frozenset[str]]

    def input(self, index: int) -> Parameter | None:
        """Formal parameter of an actual input."""
        return _actual(self.inputs, self.variadic_input, index)

    def output(self, index: int) -> Parameter | None:
        """Formal parameter of an actual output."""
        return _actual(self.outputs, self.variadic_output, index)


def _actual(formal: tuple[Parameter, ...], variadic: bool, index: int) -> Parameter | None:
    if index < len(formal):
        return formal[index]
    return formal[-1] if variadic and formal else None


@cache
def signature(domain: str, operator: str, version: int) -> Signature | None:
    """Signature of an operator of a standard domain, None where it has no schema.

    Version 0 means the newest: passes write operators without caring for versions.
    """
    try:
        schema = (
            defs.get_schema(operator, version, domain)
            if version
            else defs.get_schema(operator, domain)
        )
    except defs.SchemaError:
        return None

    def parameters(formal: Any) -> tuple[Parameter, ...]:
        return tuple(Parameter(p.name, p.type_str, p.is_homogeneous) for p in formal)

    inputs, outputs = schema.inputs, schema.outputs
    return Signature(
        schema.since_version,
        parameters(inputs),
        parameters(outputs),
        bool(inputs) and inputs[-1].option == _VARIADIC,
        bool(outputs) and outputs[-1].option == _VARIADIC,
        {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints},
    )


def _type_names() -> tuple[dict[np.dtype[Any], str], dict[str, np.dtype[Any]]]:
    names: dict[np.dtype[Any], str] = {}
    types: dict[str, np.dtype[Any]] = {}
    for name, number in TensorProto.DataType.items():
        try:
            dtype = data_type(number, name)
        except ModelError:
            continue
        names.setdefault(dtype, f"tensor({name.lower()})")
        types[f"tensor({name.lower()})"] = dtype
    return names, types


_NAMES, _TYPES = _type_names()


def type_name(value: Value) -> str | None:
    """Type of a value in the schemas' notation; None where it is unknown or of no single type."""
    if value.dtype is None or value.kind not in ("tensor", "sequence"):
        return None
    name = _NAMES.get(value.dtype)
    return f"seq({name})" if name and value.kind == "sequence" else name


def infer_types(node: Node, types: Signature) -> None:
    """Check the inputs' types against the schema and set what it says of the outputs'.

    Raises ModelError naming the node and the input.
    """
    bound: dict[str, tuple[str, str]] = {}
    for index, value in enumerate(node.inputs):
        parameter = types.input(index)
        name = type_name(value) if value is not None else None
        if value is None or parameter is None or name is None:
            continue
        allowed = types.allowed.get(parameter.type)
        if allowed is None:
            if parameter.type != name:
                _refuse(node, parameter, value, name, parameter.type)
            continue
        if name not in allowed:
            wanted = ", ".join(sorted(allowed)) if len(allowed) < 5 else f"one of {len(allowed)}"
            _refuse(node, parameter, value, name, wanted)
        if parameter.shared:
            other, previous = bound.setdefault(parameter.type, (name, value.name))
            if other != name:
                _refuse(node, parameter, value, name, f"{other} like {previous!r}")
    for index, value in enumerate(node.outputs):
        parameter = types.output(index)
        if parameter is None or not parameter.shared:
            continue
        allowed = types.allowed.get(parameter.type)
        found = parameter.type if allowed is None else bound.get(parameter.type, ("",))[0]
        if not found and allowed is not None and len(allowed) == 1:
            found = next(iter(allowed))
        _set_type(value, found)


def _set_type(value: Value, name: str) -> None:
    sequence = name.startswith("seq(")
    dtype = _TYPES.get(name[4:-1] if sequence else name)
    if dtype is not None:
        value.dtype = dtype
        value.kind = "sequence" if sequence else "tensor"


def _refuse(node: Node, parameter: Parameter, value: Value, name: str, wanted: str) -> None:
    raise ModelError(
        f"node {node.label!r} ({node.key}): input {parameter.name} ({value.name!r}) is {name}, "
        f"but must be {wanted}"
    )
