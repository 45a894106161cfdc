"""Conversion of a checked model file into the typed graph.

Names become objects here: every scope of the file (graph, subgraph, function body) resolves its
names to values, a read from an outer graph is recorded as a capture (unless the value is a
constant, which belongs to no graph), initialisers and Constant nodes become constant values, and
calls of model-local functions are expanded in place. Value names are unique in the whole result;
the main graph keeps the names of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    ValueInfoProto,
)

from engine.errors import ModelError
from engine.graph.dims import Dim, symbol
from engine.graph.ir import AnyArray, Graph, Node, Value
from engine.graph.opsets import operator_version, opset_versions
from engine.graph.structure import FunctionKey, function_key, node_label, standard_domain
from engine.graph.tensors import TensorReader, data_type

_KINDS: Final = {
    "tensor_type": "tensor",
    "sparse_tensor_type": "sparse",
    "sequence_type": "sequence",
    "optional_type": "optional",
    "map_type": "map",
}

_ANONYMOUS: Final = frozenset({"", "?", "*", "-1", "none", "null", "unknown", "any", "dynamic"})
"""Dim names that exporters write for every size they do not know; equal ones say nothing."""

_CONSTANT_TYPES: Final[dict[str, Any]] = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_string": object,
    "value_strings": object,
}


class _Scope:
    """Names of one graph or function body, and the graph that its nodes belong to.

    `outputs` maps the formal outputs of a function to the values that the call defines.
    """

    def __init__(self, graph: Graph, opsets: Mapping[str, int], parent: _Scope | None) -> None:
        self.graph = graph
        self.opsets = opsets
        self.parent = parent
        self.main = parent is None
        self.prefix: str = parent.prefix if parent else ""
        self.values: dict[str, Value | None] = {}
        self.types: dict[str, TypeProto] = {}
        self.arguments: dict[str, Any] = parent.arguments if parent else {}
        self.outputs: dict[str, tuple[_Scope, str]] = {}

    def find(self, name: str) -> Value | None:
        """Value of a name; None for the empty name and for an argument that a call omits."""
        if not name:
            return None
        if name not in self.values:
            if self.parent is None:
                # Models are checked before; bodies that an operator derives from its attributes
                # are not, and those of unknown modes lack parts.
                raise ModelError(f"{name!r} is read, and nothing computes it")
            value = self.parent.find(name)
            self.values[name] = value
            captures = self.graph.captures
            if value is None or value.is_constant or any(v is value for v in captures):
                return value
            captures.append(value)
        return self.values[name]


class Converter:
    """Converts one model; `where` names it in errors."""

    def __init__(self, model: ModelProto, tensors: TensorReader, where: str) -> None:
        self._model = model
        self._tensors = tensors
        self._where = where
        self._names: set[str] = set()
        self._symbols: set[str] = set()
        self._functions: dict[FunctionKey, FunctionProto] = {
            (standard_domain(f.domain), f.name, f.overload): f for f in model.functions
        }

    def convert(
        self, initialisers: Iterable[TensorProto], sparse: Iterable[SparseTensorProto]
    ) -> Graph:
        """Typed graph of the model; the main graph's initialisers come separately."""
        proto = self._model.graph
        graph = Graph(name=proto.name, opsets=opset_versions(self._model.opset_import))
        scope = _Scope(graph, graph.opsets, None)
        for info in proto.input:
            self._symbols.update(d.dim_param for d in info.type.tensor_type.shape.dim)
        self._names.update(name for node in proto.node for name in node.output)
        self._fill(scope, proto, initialisers, sparse)
        return graph

    def _fill(
        self,
        scope: _Scope,
        proto: GraphProto,
        initialisers: Iterable[TensorProto],
        sparse: Iterable[SparseTensorProto],
    ) -> None:
        scope.types = {info.name: info.type for info in (*proto.value_info, *proto.output)}
        for tensor in initialisers:
            where = f"{self._where}: initialiser {tensor.name!r}"
            self._constant(scope, tensor.name, self._tensors.read(tensor, where))
        for item in sparse:
            where = f"{self._where}: initialiser {item.values.name!r}"
            self._constant(scope, item.values.name, self._tensors.read_sparse(item, where))
        for info in proto.input:
            if info.name not in scope.values:
                scope.graph.inputs.append(self._input(scope, info))
        for node in proto.node:
            self._node(scope, node)
        scope.graph.outputs = [self._graph_output(scope, info.name) for info in proto.output]

    def _graph_output(self, scope: _Scope, name: str) -> Value:
        """Value that an output names; the main graph's must bear that very name."""
        value = scope.find(name)
        assert value is not None, name
        if scope.main and value.name != name:
            copy = Value(name, value.dtype, value.shape, kind=value.kind)
            copy.producer = Node("Identity", [value], [copy], version=16)
            scope.graph.nodes.append(copy.producer)
            return copy
        return value

    def _unique(self, scope: _Scope, name: str) -> str:
        if scope.main:
            self._names.add(name)
            return name
        unique = base = f"{scope.prefix}{name}"
        count = 1
        while unique in self._names:
            count += 1
            unique = f"{base}_{count}"
        self._names.add(unique)
        return unique

    def _constant(self, scope: _Scope, name: str, data: AnyArray) -> None:
        scope, name = scope.outputs.get(name, (scope, name))
        shape = tuple(Dim.of(d) for d in data.shape)
        scope.values[name] = Value(self._unique(scope, name), data.dtype, shape, data)

    def _input(self, scope: _Scope, info: ValueInfoProto) -> Value:
        value = Value(self._unique(scope, info.name))
        scope.values[info.name] = value
        if scope.main or info.type.WhichOneof("value"):
            where = f"{self._where}: input {info.name!r}"
            value.kind, value.dtype = _kind_and_type(info.type, where)
        if scope.main and value.kind == "tensor" and info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            value.shape = tuple(self._input_dim(info.name, a, dim) for a, dim in enumerate(dims))
        return value

    def _input_dim(self, name: str, axis: int, dim: TensorShapeProto.Dimension) -> Dim:
        """Dim of an input axis; an unnamed, zero or negative size in the file is any size."""
        if dim.dim_value > 0:
            return Dim.of(dim.dim_value)
        if dim.dim_param.lower() not in _ANONYMOUS:
            return symbol(dim.dim_param)
        fresh = f"{name}_dim_{axis}"
        while fresh in self._symbols:
            fresh += "_"
        self._symbols.add(fresh)
        return symbol(fresh)

    def _output(self, scope: _Scope, name: str) -> Value:
        if not name:
            return Value("")
        if name in scope.outputs:
            outer, outer_name = scope.outputs[name]
            value = self._output(outer, outer_name)
            scope.values[name] = value
            return value
        value = Value(self._unique(scope, name))
        scope.values[name] = value
        info = scope.types.get(name)
        if info is not None and info.WhichOneof("value"):
            value.kind, value.dtype = _kind_and_type(info, f"{self._where}: value {name!r}")
            if value.kind == "tensor":
                value.shape = self._known_shape(info)
        return value

    def _known_shape(self, info: TypeProto) -> tuple[Dim, ...] | None:
        """Declared shape of an intermediate value where every dim has a meaning at run time."""
        if not info.tensor_type.HasField("shape"):
            return None
        dims: list[Dim] = []
        for dim in info.tensor_type.shape.dim:
            if dim.dim_value > 0:
                dims.append(Dim.of(dim.dim_value))
            elif dim.dim_param.lower() not in _ANONYMOUS and dim.dim_param in self._symbols:
                dims.append(symbol(dim.dim_param))
            else:
                return None
        return tuple(dims)

    def _node(self, scope: _Scope, proto: NodeProto) -> None:
        where = f"{self._where}: {node_label(proto)}"
        function = self._functions.get(function_key(proto))
        if function is not None:
            self._call(scope, proto, function, where)
            return
        domain = standard_domain(proto.domain)
        version = operator_version(proto, scope.opsets, where)
        if proto.op_type == "Constant" and not domain:
            self._constant(scope, proto.output[0], self._constant_data(scope, proto, where))
            return
        node = Node(
            op=proto.op_type,
            inputs=[scope.find(name) for name in proto.input],
            outputs=[],
            attributes=self._attributes(scope, proto, where),
            domain=domain,
            version=version,
            name=f"{scope.prefix}{proto.name}" if proto.name else "",
        )
        node.outputs = [self._output(scope, name) for name in proto.output]
        for value in node.outputs:
            value.producer = node
        scope.graph.nodes.append(node)

    def _call(self, scope: _Scope, proto: NodeProto, function: FunctionProto, where: str) -> None:
        """Expand a call of a model-local function."""
        if len(proto.input) > len(function.input) or len(proto.output) > len(function.output):
            raise ModelError(
                f"{where}: it passes {len(proto.input)} inputs and takes {len(proto.output)} "
                f"outputs, but function {function.name!r} has {len(function.input)} and "
                f"{len(function.output)}"
            )
        opsets = opset_versions(function.opset_import) or scope.opsets
        inner = _Scope(scope.graph, opsets, None)
        inner.main = False
        inner.prefix = f"{scope.prefix}{proto.name or proto.output[0]}/"
        inner.types = {info.name: info.type for info in function.value_info}
        inner.arguments = {
            **{a.name: self._attribute(scope, a, where) for a in function.attribute_proto},
            **self._attributes(scope, proto, where),
        }
        for index, name in enumerate(function.input):
            inner.values[name] = scope.find(proto.input[index] if index < len(proto.input) else "")
        pairs = list(zip(function.output, proto.output, strict=False))
        inner.outputs = {formal: (scope, name) for formal, name in pairs if name}
        for node in function.node:
            self._node(inner, node)
        for formal, name in pairs:
            if name and name not in scope.values:
                scope.values[name] = inner.find(formal)

    def _constant_data(self, scope: _Scope, proto: NodeProto, where: str) -> AnyArray:
        attributes = self._attributes(scope, proto, where)
        if len(attributes) != 1:
            raise ModelError(f"{where}: a Constant has exactly one value, not {len(attributes)}")
        name, value = next(iter(attributes.items()))
        if name in _CONSTANT_TYPES:
            return np.array(value, _CONSTANT_TYPES[name])
        if not isinstance(value, np.ndarray):
            raise ModelError(f"{where}: attribute {name!r} is not a tensor")
        return value

    def _attributes(self, scope: _Scope, proto: NodeProto, where: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name in scope.arguments:
                    attributes[attribute.name] = scope.arguments[attribute.ref_attr_name]
            else:
                attributes[attribute.name] = self._attribute(scope, attribute, where)
        return attributes

    def _attribute(self, scope: _Scope, attribute: AttributeProto, where: str) -> Any:
        place = f"{where}: attribute {attribute.name!r}"
        kind = attribute.type
        if kind == AttributeProto.INT:
            return attribute.i
        if kind == AttributeProto.FLOAT:
            return attribute.f
        if kind == AttributeProto.STRING:
            return _text(attribute.s, place)
        if kind == AttributeProto.INTS:
            return list(attribute.ints)
        if kind == AttributeProto.FLOATS:
            return list(attribute.floats)
        if kind == AttributeProto.STRINGS:
            return [_text(item, place) for item in attribute.strings]
        if kind == AttributeProto.TENSOR:
            return self._tensors.read(attribute.t, place)
        if kind == AttributeProto.TENSORS:
            return [self._tensors.read(item, place) for item in attribute.tensors]
        if kind == AttributeProto.SPARSE_TENSOR:
            return self._tensors.read_sparse(attribute.sparse_tensor, place)
        if kind == AttributeProto.GRAPH:
            return self._subgraph(scope, attribute.g)
        if kind == AttributeProto.GRAPHS:
            return [self._subgraph(scope, item) for item in attribute.graphs]
        if kind == AttributeProto.TYPE_PROTO:
            return attribute.tp
        raise ModelError(f"{place} has the unsupported type {kind}")

    def _subgraph(self, scope: _Scope, proto: GraphProto) -> Graph:
        graph = Graph(name=proto.name, opsets=dict(scope.opsets))
        inner = _Scope(graph, scope.opsets, scope)
        self._fill(inner, proto, proto.initializer, proto.sparse_initializer)
        return graph


def _kind_and_type(info: TypeProto, where: str) -> tuple[str, np.dtype[Any] | None]:
    """Kind of a value, and the data type of its elements where they are tensors."""
    field = info.WhichOneof("value")
    if field is None or field not in _KINDS:
        raise ModelError(f"{where} has no supported type")
    inner = info
    while (nested := inner.WhichOneof("value")) in ("sequence_type", "optional_type"):
        inner = getattr(inner, nested).elem_type
    if nested not in ("tensor_type", "sparse_tensor_type"):
        return _KINDS[field], None
    return _KINDS[field], data_type(getattr(inner, nested).elem_type, where)


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{where} is not UTF-8 text: {error.reason}") from error
