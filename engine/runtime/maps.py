"""Operators of ``ai.onnx.ml`` on maps and categories that the onnx package does not implement.

A map is a dict; a sequence of maps is a list of them, as onnxruntime has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from engine.graph.ir import Node

Call = Callable[[list[Any]], list[Any]]

DOMAIN: Final = "ai.onnx.ml"


def map_operator(node: Node) -> Call | None:
    """Evaluation of a node, None where it is none of these operators."""
    make = _OPERATORS.get(node.op) if node.domain == DOMAIN else None
    return None if make is None else make(node)


def _zip_map(node: Node) -> Call:
    """A map from class label to score for each row of scores; a vector is one row."""
    labels = node.attribute("classlabels_strings") or node.attribute("classlabels_int64s") or []

    def call(arrays: list[Any]) -> list[Any]:
        rows = np.atleast_2d(arrays[0])
        if rows.shape[1] != len(labels):
            raise ValueError(f"{rows.shape[1]} scores for {len(labels)} labels")
        return [[dict(zip(labels, row, strict=True)) for row in rows.tolist()]]

    return call


def _category_mapper(node: Node) -> Call:
    """Texts to numbers, or numbers to texts, by the pairs of two lists."""
    texts, numbers = node.attribute("cats_strings", []), node.attribute("cats_int64s", [])
    to_number = dict(zip(texts, numbers, strict=True))
    to_text = dict(zip(numbers, texts, strict=True))
    missing = node.attribute("default_int64", -1), node.attribute("default_string", "_Unused")

    def call(arrays: list[Any]) -> list[Any]:
        x = arrays[0]
        if x.dtype.kind in "OUS":
            found: list[Any] = [to_number.get(item, missing[0]) for item in x.reshape(-1).tolist()]
            return [np.array(found, np.int64).reshape(x.shape)]
        found = [to_text.get(item, missing[1]) for item in x.reshape(-1).tolist()]
        return [np.array(found, object).reshape(x.shape)]

    return call


def _cast_map(node: Node) -> Call:
    """The values of a map, by key: those that are there, or as a row with zeros between."""
    kind = {"TO_FLOAT": np.float32, "TO_INT64": np.int64, "TO_STRING": object}
    dtype = kind[node.attribute("cast_to", "TO_FLOAT")]
    sparse = node.attribute("map_form", "DENSE") == "SPARSE"

    def call(arrays: list[Any]) -> list[Any]:
        given = arrays[0]
        keys = sorted(given)
        convert: Any = str if dtype is object else float if dtype is np.float32 else int
        blank: Any = "" if dtype is object else 0
        if sparse:
            width = int(node.attribute("max_map", 1))
            items = [convert(given[key]) if key in given else blank for key in range(width)]
        else:
            items = [convert(given[key]) for key in keys]
        return [np.array(items, dtype).reshape(1, -1)]

    return call


_OPERATORS: Final[dict[str, Callable[[Node], Call]]] = {
    "CastMap": _cast_map,
    "CategoryMapper": _category_mapper,
    "ZipMap": _zip_map,
}
