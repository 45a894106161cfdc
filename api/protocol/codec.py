"""Inference requests and answers: a JSON part, and after it the binary tensors, if any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import orjson

from api.errors import BadRequestError, UnsupportedError
from api.protocol.binary_tensors import dump_binary, parse_binary
from api.protocol.datatypes import DTYPES, datatype_of
from api.protocol.json_tensors import dump_data, parse_data
from api.protocol.limits import Limits, check_depth, check_shape
from api.protocol.sequence import SequenceStep, sequence_step
from cluster.description import ModelDescription, shape_text
from cluster.session import Tensor, Tensors

MAX_PRIORITY = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """One output that the client wants, as binary data or as JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded inference request.

    `outputs` are those to answer with, in the order asked for; `priority` 0 and `timeout_s` None
    mean that the client set none.
    """

    id: str | None
    inputs: Tensors
    outputs: tuple[OutputRequest, ...]
    priority: int
    timeout_s: float | None
    sequence: SequenceStep | None = None


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """An encoded answer; `header_length` None says that the whole body is JSON."""

    body: bytes
    header_length: int | None


def parse_header_length(text: str | None) -> int | None:
    """Value of `Inference-Header-Content-Length`; raises `BadRequestError`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise BadRequestError(
            f"Inference-Header-Content-Length must be a byte count, not {text[:40]!r}"
        )
    return int(text)


def decode_request(
    body: bytes | memoryview, header_length: int | None, model: ModelDescription, limits: Limits
) -> InferRequest:
    """Decode a body, decompressed already; raises `BadRequestError` or `UnsupportedError`."""
    if header_length == 0:
        return _raw_request(memoryview(body), model)
    if header_length is not None and header_length > len(body):
        raise BadRequestError(
            f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes"
        )
    size = len(body) if header_length is None else header_length
    content = parse_json(body if size == len(body) else memoryview(body)[:size], limits)
    parameters = _mapping(content.get("parameters"), "'parameters'")
    return InferRequest(
        _request_id(content.get("id")),
        _inputs(content.get("inputs"), memoryview(body)[size:], limits),
        _outputs(content.get("outputs"), parameters, model),
        _priority(parameters.get("priority")),
        _timeout(parameters.get("timeout")),
        sequence_step(parameters),
    )


def parse_json(text: bytes | memoryview, limits: Limits) -> dict[str, Any]:
    """Parse a JSON object within the limits; raises `BadRequestError`."""
    check_depth(text, limits.json_depth)
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raw = bytes(text)
        tokens = [token for token in ("NaN", "Infinity") if token.encode() in raw]
        hint = (
            f" ({' and '.join(tokens)} cannot be said in JSON; send the tensor as binary data)"
            if tokens
            else ""
        )
        raise BadRequestError(f"the request is not valid JSON: {error}{hint}") from None
    if not isinstance(content, dict):
        raise BadRequestError("the request must be a JSON object")
    return content


def _inputs(entries: Any, tail: memoryview, limits: Limits) -> Tensors:
    if not isinstance(entries, list):
        raise BadRequestError("'inputs' must be a list of tensors")
    tensors: Tensors = {}
    position = 0
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            raise BadRequestError(f"'inputs' element {index} must be an object with a 'name'")
        where = f"input '{name[:200]}'"
        if name in tensors:
            raise BadRequestError(f"{where} is given twice")
        shape = check_shape(entry.get("shape"), where, limits)
        datatype = entry.get("datatype")
        if not isinstance(datatype, str) or datatype not in DTYPES:
            raise BadRequestError(f"{where}: 'datatype' must be one of {', '.join(DTYPES)}")
        parameters = _mapping(entry.get("parameters"), f"{where}: 'parameters'")
        if "shared_memory_region" in parameters:
            raise UnsupportedError(f"{where}: shared memory is not supported")
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in entry:
                raise BadRequestError(f"{where} has neither 'data' nor 'binary_data_size'")
            tensors[name] = parse_data(entry["data"], datatype, shape, where)
            continue
        if "data" in entry:
            raise BadRequestError(f"{where} has both 'data' and 'binary_data_size'")
        if type(size) is not int or not 0 <= size <= tail.nbytes - position:
            raise BadRequestError(
                f"{where}: 'binary_data_size' is {size!r:.40}, "
                f"{tail.nbytes - position} bytes of binary data are left"
            )
        raw = tail[position : position + size]
        tensors[name] = parse_binary(raw, datatype, shape, where)
        position += size
    if position != tail.nbytes:
        raise BadRequestError(f"{tail.nbytes - position} bytes of binary data belong to no input")
    return tensors


def _outputs(
    entries: Any, parameters: dict[str, Any], model: ModelDescription
) -> tuple[OutputRequest, ...]:
    everything = _flag(parameters.get("binary_data_output"), "'binary_data_output'", False)
    if entries is None or entries == []:
        return tuple(OutputRequest(tensor.name, everything) for tensor in model.outputs)
    if not isinstance(entries, list):
        raise BadRequestError("'outputs' must be a list")
    known = {tensor.name for tensor in model.outputs}
    wanted: dict[str, OutputRequest] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
            raise BadRequestError(f"'outputs' element {index} must be an object with a 'name'")
        where = f"output '{name[:200]}'"
        if name not in known:
            raise BadRequestError(f"{where} does not exist; the outputs are {sorted(known)}")
        if name in wanted:
            raise BadRequestError(f"{where} is asked for twice")
        options = _mapping(entry.get("parameters"), f"{where}: 'parameters'")
        for unsupported in ("classification", "shared_memory_region"):
            if options.get(unsupported):
                raise UnsupportedError(f"{where}: '{unsupported}' is not supported")
        binary = _flag(options.get("binary_data"), f"{where}: 'binary_data'", everything)
        wanted[name] = OutputRequest(name, binary)
    return tuple(wanted.values())


def _raw_request(raw: memoryview, model: ModelDescription) -> InferRequest:
    """A body that is one tensor and nothing else; type and shape come from the model."""
    if len(model.inputs) != 1:
        raise BadRequestError(
            "a raw binary request (Inference-Header-Content-Length: 0) needs a model with one "
            f"input, this one has {len(model.inputs)}"
        )
    (tensor,) = model.inputs
    where = f"raw input '{tensor.name}' of shape {shape_text(tensor.shape)}"
    datatype = datatype_of(tensor.dtype)
    variable = [axis for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)]
    fixed = [dim for dim in tensor.shape if isinstance(dim, int)]
    if datatype == "BYTES":
        if prod(fixed) != 1 or variable:
            raise BadRequestError(f"{where}: a raw BYTES input must have exactly one element")
        length = len(raw).to_bytes(4, "little")
        raw = memoryview(length + raw.tobytes())
        shape: tuple[int, ...] = tuple(fixed)
    else:
        if datatype not in DTYPES:
            raise BadRequestError(f"{where}: data type {datatype} cannot be sent")
        if len(variable) > 1:
            raise BadRequestError(
                f"{where}: the shape is ambiguous, more than one size is variable"
            )
        row = prod(fixed) * tensor.dtype.itemsize
        free = raw.nbytes // row if row else 0
        shape = tuple(free if isinstance(dim, str) else dim for dim in tensor.shape)
    inputs = {tensor.name: parse_binary(raw, datatype, shape, where)}
    outputs = tuple(OutputRequest(output.name, True) for output in model.outputs)
    return InferRequest(None, inputs, outputs, 0, None)


def encode_answer(
    model_name: str,
    model_version: str,
    request_id: str | None,
    tensors: Sequence[tuple[OutputRequest, Tensor]],
) -> InferAnswer:
    """Encode the outputs; one copy from the tensors to the body, none of JSON numbers in Python."""
    outputs: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    for wanted, tensor in tensors:
        datatype = datatype_of(tensor.dtype)
        if datatype not in DTYPES:
            raise UnsupportedError(
                f"output '{wanted.name}' has data type {datatype}, which the protocol cannot carry"
            )
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": datatype,
            "shape": tensor.shape,
        }
        if wanted.binary:
            chunk = dump_binary(tensor)
            entry["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            entry["data"] = dump_data(tensor)
        outputs.append(entry)
    content: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request_id is not None:
        content["id"] = request_id
    content["outputs"] = outputs
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    if not any(wanted.binary for wanted, _ in tensors):
        return InferAnswer(head, None)
    return InferAnswer(b"".join([head, *chunks]), len(head))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"{where} must be an object")
    return value


def _flag(value: Any, where: str, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequestError(f"{where} must be true or false")
    return value


def _request_id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise BadRequestError("'id' must be a string")


def _priority(value: Any) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_PRIORITY:
        raise BadRequestError(f"'priority' must be an integer from 0 to {MAX_PRIORITY}")
    return value


def _timeout(value: Any) -> float | None:
    if value is None or value == 0:
        return None
    if type(value) is not int or value < 0:
        raise BadRequestError("'timeout' must be a whole number of microseconds")
    return value / 1e6
