"""Smaller inputs with the same fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

Fails = Callable[[bytes], bool]


def minimise(data: bytes, fails: Fails, tries: int = 150) -> bytes:
    """`data` with as much removed as the fault allows within so many tries.

    Messages of a model lose list elements and fields; what is none loses stretches of bytes, halves
    first (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # google.protobuf's DecodeError
        return _shorten(data, fails, tries)
    if not fails(model.SerializeToString()):
        return _shorten(data, fails, tries)
    return _prune(model, fails, tries).SerializeToString()


def _shorten(data: bytes, fails: Fails, tries: int) -> bytes:
    step = len(data) // 2
    while step and tries:
        at = 0
        while at < len(data) and tries:
            shorter = data[:at] + data[at + step :]
            tries -= 1
            if fails(shorter):
                data = shorter
            else:
                at += step
        step //= 2
    return data


def _prune(model: Any, fails: Fails, tries: int) -> Any:
    changed = True
    while changed and tries:
        changed = False
        for path in _places(model):
            if not tries:
                break
            smaller = onnx.ModelProto()
            smaller.CopyFrom(model)
            if not _remove(smaller, path):
                continue
            tries -= 1
            if fails(smaller.SerializeToString()):
                model, changed = smaller, True
    return model


def _places(message: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to fields and list elements, those of outer messages first."""
    found: list[tuple[Any, ...]] = []
    inner: list[tuple[Any, ...]] = []
    for field, value in message.ListFields():
        is_list = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        if is_list:
            found += [(*above, (field.name, i)) for i in reversed(range(min(len(value), 40)))]
        else:
            found.append((*above, (field.name, None)))
        items = list(enumerate(value)) if is_list else [(None, value)]
        for index, item in items[:40]:
            if hasattr(item, "ListFields"):
                inner += _places(item, (*above, (field.name, index)))
    return found + inner


def _remove(message: Any, path: tuple[Any, ...]) -> bool:
    *above, (name, index) = path
    for step, at in above:
        message = getattr(message, step)
        if at is not None:
            if at >= len(message):
                return False
            message = message[at]
    if index is None:
        message.ClearField(name)
        return True
    values = getattr(message, name)
    if index >= len(values):
        return False
    del values[index]
    return True
