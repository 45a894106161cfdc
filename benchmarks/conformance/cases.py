"""The suite's cases: models, inputs and expected outputs, from the onnx package alone.

The graphs of the ``light_*`` cases come with constant weights under which almost any error
cancels (eight of nine expected outputs are a thousand equal numbers), so they run with seeded
random weights instead, and onnxruntime's outputs are expected.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from benchmarks.conformance.light import light_model

KINDS: Final = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
"""Kinds of cases, in the order of the report; ``real`` are the ``light_*`` graphs."""

DataSet = tuple[list[Any], list[Any] | None]
"""Inputs and expected outputs in the order of the graph; None: what onnxruntime answers."""


@dataclass(frozen=True)
class Case:
    """One test of the suite, without the device in its name.

    `graph` is the file of a ``light_*`` graph, whose model and inputs `content` makes: with weights
    they take hundreds of megabytes.
    """

    name: str
    kind: str
    operator: str
    model: bytes
    data_sets: tuple[DataSet, ...]
    rtol: float
    atol: float
    graph: Path | None = None

    def content(self) -> tuple[bytes, tuple[DataSet, ...]]:
        """The model file's bytes, and the data to run it on."""
        if self.graph is None:
            return self.model, self.data_sets
        model, images = light_model(self.graph)
        return model.SerializeToString(), ((images, None),)


def load_cases(cache: Path) -> list[Case]:
    """All cases, by name; generated once per installed onnx package and kept in `cache`.

    Cases name files of the package, so those of another environment are not taken.
    """
    sources = Path(__file__).read_bytes() + onnx.__file__.encode()
    digest = hashlib.sha256(sources).hexdigest()[:12]
    kept = cache / f"cases-{digest}-onnx-{onnx.__version__}.pickle"
    if kept.exists():
        cases: list[Case] = pickle.loads(kept.read_bytes())
        return cases
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [case for kind in KINDS for case in _collect(kind)]
    cache.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(".new")
    fresh.write_bytes(pickle.dumps(cases))
    fresh.replace(kept)
    return cases


def _collect(kind: str) -> Iterator[Case]:
    found = sorted(load_model_tests(kind=kind), key=lambda case: case.name)
    main = {case.name: _main_operator(case.model) for case in found if case.model is not None}
    for case in found:
        graph: Path | None = None
        model = onnx.ModelProto()
        data_sets: list[DataSet] = []
        if case.model is not None:
            operator = main.get(case.name.split("_expanded")[0], main[case.name])
            model, data_sets = case.model, _generated(case)
        elif case.model_dir is not None:
            model = onnx.load(Path(case.model_dir) / "model.onnx")
            operator, data_sets = _main_operator(model), _stored(case.model_dir, model)
        else:
            graph, operator = Path(onnx.__file__).parent.parent / str(case.url), "whole networks"
        yield Case(
            case.name,
            kind,
            operator,
            model.SerializeToString(),
            tuple(data_sets),
            case.rtol,
            case.atol,
            graph,
        )


def _main_operator(model: onnx.ModelProto) -> str:
    """The operator that a case is about: the last one that is no mere helper."""
    helpers = {"Constant", "Identity", "SequenceConstruct", "SequenceInsert", "SequenceAt"}
    nodes = list(model.graph.node)
    last = next((node for node in reversed(nodes) if node.op_type not in helpers), nodes[-1])
    return f"{last.domain}.{last.op_type}" if last.domain else last.op_type


def _generated(case: TestCase) -> list[DataSet]:
    return [
        ([_array(x) for x in inputs], [_array(y) for y in outputs])
        for inputs, outputs in case.data_sets or ()
    ]


def _array(item: Any) -> Any:
    if isinstance(item, TensorProto):
        return numpy_helper.to_array(item)
    return np.asarray(item) if isinstance(item, np.generic | bool | int | float) else item


def _stored(folder: str, model: onnx.ModelProto) -> list[DataSet]:
    return [
        (_files(data, "input", model.graph.input), _files(data, "output", model.graph.output))
        for data in sorted(Path(folder).glob("test_data_set*"))
    ]


def _files(folder: Path, stem: str, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    values: list[Any] = []
    for index in range(len(list(folder.glob(f"{stem}_*.pb")))):
        data = (folder / f"{stem}_{index}.pb").read_bytes()
        if infos[index].type.HasField("sequence_type"):
            values.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif infos[index].type.HasField("optional_type"):
            values.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            values.append(numpy_helper.to_array(TensorProto.FromString(data)))
    return values


RELATIVE: Final = 1e-4
ABSOLUTE: Final = 1e-5


def difference(case: Case, outputs: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """What is wrong with outputs, None where they pass.

    They pass by the suite's own comparison, or if every float tensor is equal to the expected one
    in this project's sense: the suite compares each element by its own size, also where it is the
    difference of far larger numbers. It does not look at elements that a sequence lacks; this does.
    """
    if _lengths(list(outputs)) != _lengths(list(expected)):
        return "a sequence has another length"
    try:
        Runner.assert_similar_outputs(expected, outputs, case.rtol, case.atol)
    except Exception as error:  # outputs of a wrong structure fail in the comparison in many ways
        if _equal(list(outputs), list(expected)):
            return None
        return " ".join(str(error).split())[:200]
    return None


def _lengths(value: Any) -> Any:
    """Lengths of nested lists."""
    return [len(value), *map(_lengths, value)] if isinstance(value, list) else None


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(map(_equal, found, wanted))
        )
    found, wanted = np.asarray(found), np.asarray(wanted)
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(found, wanted))
    finite = np.isfinite(wanted)
    if not np.array_equal(found[~finite], wanted[~finite], equal_nan=True):
        return False
    allowed = RELATIVE * np.abs(wanted[finite], dtype=np.float64).max(initial=0) + ABSOLUTE
    return bool(np.all(np.abs(found[finite].astype(np.float64) - wanted[finite]) <= allowed))
