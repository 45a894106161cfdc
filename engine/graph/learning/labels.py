"""Label encoders between numbers."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from engine.graph.body import Body, Unsupported, dtype_of, rank_of
from engine.graph.ir import AnyArray
from engine.graph.learning.registry import rewrites_as

_MANY: Final = 64
"""Keys up to which comparing with each is no more work than looking one up."""

_DENSE: Final = 1 << 16
"""Longest table that whole keys index directly."""


def _listed(b: Body, name: str) -> AnyArray | None:
    tensor = b.attribute(f"{name}_tensor")
    if tensor is not None:
        return np.asarray(tensor)
    for kind, dtype in (("int64s", np.int64), ("floats", np.float32)):
        given = b.attribute(f"{name}_{kind}")
        if given:
            return np.asarray(given, dtype)
    return None


def _default(b: Body, dtype: Any) -> Any:
    tensor = b.attribute("default_tensor")
    if tensor is not None:
        return np.asarray(tensor).reshape(-1)[0]
    if dtype.kind == "f":
        return b.attribute("default_float", -0.0)
    return b.attribute("default_int64", -1)


@rewrites_as("LabelEncoder")
def _label_encoder(b: Body) -> None:
    """The value of the key that x equals, else a default; a key listed twice has its last value.

    Whole keys in a short range index a table: ``T[x - low]`` with the default on both sides. Few
    keys are compared with: ``T[max over i of (x == key_i) * (i + 1)]`` with the default first.
    """
    x = b.input(0)
    keys, values = _listed(b, "keys"), _listed(b, "values")
    if keys is None or values is None or keys.dtype.kind not in "if":
        raise Unsupported("it reads or writes texts")
    if values.dtype.kind not in "if" or len(keys) != len(values):
        raise Unsupported("its values are no numbers, or not as many as its keys")
    default = np.asarray(_default(b, values.dtype), values.dtype)
    if dtype_of(x).kind == "i" and np.ptp(keys) < _DENSE:
        low = int(keys.min())
        table = np.full(int(np.ptp(keys)) + 3, default, values.dtype)
        table[keys - low + 1] = values
        limits = [b.like(limit, x) for limit in (low - 1, low + len(table) - 2)]
        near = b("Min", b("Max", x, limits[0]), limits[1])
        index = b("Sub", near, limits[0])
    elif len(keys) <= _MANY and not np.isnan(keys).any():
        table = np.concatenate([default.reshape(1), values])
        spread = b("Unsqueeze", x, b.ints(rank_of(x)))
        equal = b.cast(b("Equal", spread, b.constant(keys.astype(dtype_of(x)))), np.int64)
        places = b("Mul", equal, b.constant(np.arange(1, len(keys) + 1)))
        index = b("ReduceMax", places, b.ints(rank_of(x)), keepdims=0)
    else:
        raise Unsupported("its keys are many and not whole numbers of a short range")
    b.give(0, b("Gather", b.constant(table), index, axis=0))
