"""A request to a served model that can be pasted into a terminal."""

import json
import shlex
from math import prod
from typing import Any

from api.protocol.datatypes import datatype_of
from cluster.description import ModelDescription, TensorDescription

OPEN_SIZE = 64
"""Size given to a symbolic dimension other than the first."""

_INLINE_ELEMENTS = 16


def request_example(url: str, model: str, description: ModelDescription) -> str:
    """A `curl` command that sends zeros to `model`; symbolic dimensions get an arbitrary size.

    Long tensors are written by Python on the way, so that the command stays short.
    """
    tensors = [_tensor(tensor) for tensor in description.inputs]
    address = f"{url}/v2/models/{model}/infer"
    if sum(prod(tensor["shape"]) for tensor in tensors) <= _INLINE_ELEMENTS:
        for tensor in tensors:
            tensor["data"] = [_zero(tensor["datatype"])] * prod(tensor["shape"])
        return f"curl -s {address} -d {shlex.quote(json.dumps({'inputs': tensors}))}"
    parts = ", ".join(
        f'{json.dumps(tensor)[:-1]}, "data": [{_zero(tensor["datatype"])!r}] * '
        f"{prod(tensor['shape'])}}}"
        for tensor in tensors
    )
    program = f'import json; print(json.dumps({{"inputs": [{parts}]}}))'
    return f"python3 -c {shlex.quote(program)} | curl -s {address} -d @-"


def _tensor(tensor: TensorDescription) -> dict[str, Any]:
    shape = [
        dim if isinstance(dim, int) else 1 if axis == 0 else OPEN_SIZE
        for axis, dim in enumerate(tensor.shape)
    ]
    return {"name": tensor.name, "shape": shape, "datatype": datatype_of(tensor.dtype)}


def _zero(datatype: str) -> float | int | str:
    if datatype == "BYTES":
        return ""
    if datatype == "BOOL":
        return False
    return 0.0 if datatype.startswith(("FP", "BF")) else 0
