"""Reading a model: from an ONNX file, or its bytes, to the typed graph.

The file is read once. The main graph's initialisers are taken out of the parsed message before the
checks of the onnx package, which serialise and parse it again, so that checking costs the same
whatever the weights weigh.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto, ValueInfoProto

from engine.errors import ModelError
from engine.graph.contributed import expand
from engine.graph.conversion import Converter
from engine.graph.external_data import ExternalData
from engine.graph.ir import Graph
from engine.graph.opsets import check_operators, check_versions, opset_versions, withdrawn_form
from engine.graph.structure import attribute_graphs, check_structure
from engine.graph.tensors import TensorReader

MAX_FILE_BYTES: Final = 2**31 - 1
"""Most bytes of one protobuf message; larger models keep their weights in external data."""

_MAX_CHECKED_TENSOR: Final = 1 << 16
"""Larger tensors inside nodes and subgraphs are left out of the onnx package's check."""


def read(source: str | Path | bytes) -> Graph:
    """Typed graph of an ONNX model.

    `source` is the path of a file or the file's bytes; external data is only followed for a path.
    Arrays of external data share memory with the files. Raises ModelError, naming the model and
    the place, for everything that is wrong with the file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        where, external, data = "model", None, bytes(source)
        name = "model"
    else:
        path = Path(source)
        where, name = str(path), path.stem
        external, data = ExternalData(path.parent), _read_file(path)
    model = _parse(data, where)
    del data
    check_structure(model, where)
    check_versions(model, where)
    check_operators(model, where)
    initialisers, sparse = _detach(model.graph)
    _check_schemas(model, initialisers, sparse, where)
    graph = Converter(model, TensorReader(external), where).convert(initialisers, sparse)
    expand(graph, where)
    graph.name = graph.name or name
    graph.external = external.used if external is not None else ()
    return graph


def _read_file(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be opened: {error}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise ModelError(f"{path}: not a regular file; name the .onnx file itself")
    with os.fdopen(handle, "rb") as file:
        if status.st_size > MAX_FILE_BYTES:
            raise ModelError(
                f"{path}: {status.st_size} bytes exceed the {MAX_FILE_BYTES} that an ONNX file "
                "can have; save the model with its weights as external data"
            )
        return file.read(MAX_FILE_BYTES)


def _parse(data: bytes, where: str) -> ModelProto:
    if not data:
        raise ModelError(f"{where}: the file is empty")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{where}: not an ONNX model, or a truncated, damaged or too deeply nested one "
            f"({len(data)} bytes, beginning with {data[:8].hex(' ')}); copy or export it again"
        ) from error
    if not model.HasField("graph") or not model.HasField("ir_version"):
        raise ModelError(
            f"{where}: not an ONNX model, or a truncated one: no "
            f"{'IR version' if model.HasField('graph') else 'graph'} in its {len(data)} bytes"
        )
    if not model.graph.output:
        raise ModelError(f"{where}: the graph has no outputs; the file is truncated or no model")
    return model


def _detach(graph: GraphProto) -> tuple[list[TensorProto], list[SparseTensorProto]]:
    """Take the initialisers out of the main graph; they stay valid."""
    initialisers, sparse = list(graph.initializer), list(graph.sparse_initializer)
    del graph.initializer[:]
    del graph.sparse_initializer[:]
    return initialisers, sparse


def _check_schemas(
    model: ModelProto,
    initialisers: list[TensorProto],
    sparse: list[SparseTensorProto],
    where: str,
) -> None:
    """Check nodes against the schemas of their operators with the onnx package."""
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    inputs = {value.name for value in skeleton.graph.input}
    tensors = [(t.name, t.data_type, t.dims) for t in initialisers]
    tensors += [(s.values.name, s.values.data_type, s.dims) for s in sparse]
    for name, number, dims in tensors:
        if name not in inputs:
            skeleton.graph.input.add(name=name).type.CopyFrom(
                onnx.helper.make_tensor_type_proto(number, list(dims))
            )
    for info in skeleton.graph.input:
        if not info.type.WhichOneof("value"):
            raise ModelError(f"{where}: input {info.name!r} has no type; export the model again")
    for info in (*skeleton.graph.input, *skeleton.graph.output):
        _complete_type(info)
    opset = opset_versions(skeleton.opset_import).get("", 0)
    for nodes in (skeleton.graph.node, *(f.node for f in skeleton.functions)):
        _replace_withdrawn(nodes, opset)
        for tensor in _node_tensors(nodes):
            if (
                tensor.data_location == TensorProto.EXTERNAL
                or tensor.ByteSize() > _MAX_CHECKED_TENSOR
            ):
                slim = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0])
                tensor.CopyFrom(slim)
    try:
        onnx.checker.check_model(skeleton)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{where}: {_one_line(str(error))}") from error
    except (RuntimeError, ValueError, TypeError, IndexError, MemoryError) as error:
        raise ModelError(
            f"{where}: the model cannot be checked: {_one_line(str(error))}"
        ) from error


def _complete_type(info: ValueInfoProto) -> None:
    """Fill in what the check wants although nothing needs it: shapes, types of outputs."""
    if not info.type.WhichOneof("value"):
        info.type.tensor_type.elem_type = TensorProto.FLOAT
    if info.type.HasField("tensor_type"):
        info.type.tensor_type.shape.SetInParent()


def _replace_withdrawn(nodes: object, opset: int) -> None:
    """Let operators that the check refuses, but we know, be checked as others of their form."""
    for node in nodes:  # type: ignore[attr-defined]
        form = withdrawn_form(node, opset)
        if form is not None:
            node.op_type = form
            kept = [a for a in node.attribute if a.name == "epsilon"]
            del node.attribute[:]
            node.attribute.extend(kept)
        for graph in attribute_graphs(node):
            _replace_withdrawn(graph.node, opset)


def _node_tensors(nodes: object) -> Iterator[TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in attribute_graphs(node):
            yield from graph.initializer
            yield from _node_tensors(graph.node)


def _one_line(text: str) -> str:
    return " ".join(text.replace("==> Context:", "in:").split())[:1000]
