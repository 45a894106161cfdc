"""Every rule against the onnx package's own test cases: stored inputs and expected outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.conformance.cases import Case
from engine.errors import ModelError
from engine.graph.dims import Dim, symbol
from engine.graph.inference import Guard, infer
from engine.graph.inference.registry import RULES
from engine.graph.ir import Graph, Value
from engine.graph.reader import read

OPERATORS = sorted(operator for domain, operator in RULES if not domain)

DATA_DEPENDENT = {
    "Compress",
    "ConcatFromSequence",
    "If",
    "ImageDecoder",
    "Loop",
    "NonMaxSuppression",
    "NonZero",
    "OptionalGetElement",
    "Scan",
    "SequenceAt",
    "SplitToSequence",
    "StringNormalizer",
    "StringSplit",
    "Unique",
}
"""Operators that may leave fresh symbols even where all small inputs are constants."""


@dataclass(frozen=True)
class _Stored:
    """A model with its inputs and expected outputs."""

    name: str
    model: onnx.ModelProto
    data_sets: list[Any]


@pytest.fixture(scope="module")
def cases(conformance_cases: dict[str, Case]) -> dict[str, list[Any]]:
    """The package's cases by operator, the expanded form of a function beside its own node."""
    found: dict[str, list[Any]] = defaultdict(list)
    for case in conformance_cases.values():
        if case.kind == "node" and case.data_sets:
            model = onnx.ModelProto.FromString(case.model)
            stored = _Stored(case.name, model, list(case.data_sets))
            found[_operator(stored)].append(stored)
    return found


def _operator(case: Any) -> str:
    """The operator that a case is about: the last node, or the name of the expanded function."""
    nodes = case.model.graph.node
    if "_expanded" in case.name:
        prefix = nodes[0].output[0] if nodes and nodes[0].output else ""
        return prefix.split("_test_")[0] if "_test_" in prefix else nodes[-1].op_type
    return str(nodes[-1].op_type)


def _tensors(items: Any, protos: Any) -> Iterator[Any]:
    for item, proto in zip(items, protos, strict=False):
        if isinstance(item, onnx.TensorProto):
            yield onnx.numpy_helper.to_array(item)
        elif hasattr(item, "dtype") or proto.type.HasField("tensor_type"):
            yield np.asarray(item)
        else:
            yield item


def _prepare(graph: Graph, given: dict[str, Any], constants: bool) -> dict[str, int]:
    """Give every axis of every input a symbol of its own; returns the symbols' values.

    With `constants`, small vectors become constants, as they mostly are in models.
    """
    sizes: dict[str, int] = {}
    kept: list[Value] = []
    for value in graph.inputs:
        array = given[value.name]
        if not isinstance(array, np.ndarray):
            kept.append(value)
            continue
        small = array.ndim <= 1 and array.size <= 64 and value.dtype is not None
        if constants and small and value.dtype != object:
            value.data = array.astype(value.dtype)
            value.shape = tuple(Dim.of(size) for size in array.shape)
            continue
        kept.append(value)
        names = [f"{value.name}:{axis}" for axis in range(array.ndim)]
        sizes.update(zip(names, array.shape, strict=True))
        value.shape = tuple(symbol(name) for name in names)
    graph.inputs = kept
    return sizes


def _check(case: Any) -> list[str]:
    """What inference gets wrong on one case."""
    try:
        graph = read(case.model.SerializeToString())
    except ModelError:
        return []  # some expanded functions name one value twice
    inputs, expected = case.data_sets[0]
    formal = [info for info in case.model.graph.input if info.type.WhichOneof("value")]
    constants = {tensor.name for tensor in case.model.graph.initializer}
    formal = [info for info in formal if info.name not in constants]
    if len(inputs) != len(graph.inputs) or len(formal) != len(inputs):
        return []
    given = dict(zip((info.name for info in formal), _tensors(inputs, formal), strict=True))
    wrong: list[str] = []
    for constants in (False, True):
        sizes = _prepare(graph, given, constants)
        wrong += _broken_guards(infer(graph), sizes)
        for value, array in zip(
            graph.outputs, _tensors(expected, case.model.graph.output), strict=False
        ):
            if isinstance(array, np.ndarray):
                wrong += _compare(case, value, array, sizes, constants)
    return [f"{case.name}: {text}" for text in wrong]


def _broken_guards(guards: list[Guard], sizes: dict[str, int]) -> Iterator[str]:
    for guard in guards:
        if guard.subgraph is None and guard.left.symbols | guard.right.symbols <= sizes.keys():
            left, right = guard.left.evaluate(sizes), guard.right.evaluate(sizes)
            if left != right:
                yield f"guard fails: {guard.message}: {left} != {right}"


def _compare(
    case: Any, value: Value, array: np.ndarray, sizes: dict[str, int], constants: bool
) -> Iterator[str]:
    operators = {node.op_type for node in case.model.graph.node}
    strict = constants and "_expanded" not in case.name and not operators & DATA_DEPENDENT
    wanted = np.dtype(object) if array.dtype.kind in "UO" else array.dtype
    if value.dtype != wanted:
        yield f"{value.name} is {value.dtype}, not {array.dtype}"
    if value.shape is None:
        if strict:
            yield f"{value.name} has no shape, but {array.shape}"
        return
    if len(value.shape) != array.ndim:
        yield f"{value.name} has {list(map(str, value.shape))}, not {array.shape}"
        return
    for dim, size in zip(value.shape, array.shape, strict=True):
        if not dim.symbols <= sizes.keys():
            if strict:
                yield f"{value.name} has {list(map(str, value.shape))}, not {array.shape}"
            continue
        if dim.evaluate(sizes) != size:
            yield f"{value.name} has {dim} = {dim.evaluate(sizes)}, not {size}"
    if value.dims is not None:
        found = [dim.evaluate(sizes) for dim in value.dims]
        if found != array.reshape(-1).tolist():
            yield f"{value.name} has elements {found}, not {array.reshape(-1).tolist()}"


@pytest.mark.parametrize("operator", OPERATORS)
def test_shapes_and_types_equal_the_expected_outputs(
    cases: dict[str, list[Any]], operator: str
) -> None:
    wrong: list[str] = []
    for case in cases.get(operator, []):
        wrong += _check(case)
    assert not wrong, "\n".join(wrong)


def test_every_case_belongs_to_an_operator_with_a_rule(cases: dict[str, list[Any]]) -> None:
    missing = {operator for operator in cases if operator not in OPERATORS}
    assert {name for name in missing if onnx.defs.has(name)} == set()
    assert sum(len(cases[operator]) for operator in OPERATORS if operator in cases) > 1500


def _stored(folder: Path) -> _Stored:
    def tensors(kind: str) -> list[onnx.TensorProto]:
        count = len(list((folder / "test_data_set_0").glob(f"{kind}_*.pb")))
        paths = [folder / "test_data_set_0" / f"{kind}_{index}.pb" for index in range(count)]
        return [onnx.load_tensor(path) for path in paths]

    return _Stored(
        folder.name, onnx.load(folder / "model.onnx"), [(tensors("input"), tensors("output"))]
    )


@pytest.mark.parametrize("kind", ["pytorch-converted", "pytorch-operator", "simple"])
def test_models_of_old_operator_sets(kind: str) -> None:
    root = Path(onnx.__file__).parent / "backend" / "test" / "data" / kind
    wrong: list[str] = []
    checked = 0
    for path in sorted(root.glob("*/model.onnx")):
        if "gradient" in path.parent.name or "sequence" in path.parent.name:
            continue
        checked += 1
        wrong += _check(_stored(path.parent))
    assert not wrong, "\n".join(wrong)
    assert checked > 10
