"""One case in one engine, within the calling process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from benchmarks.conformance.cases import Case, DataSet, difference

NATIVE: Final = "native"
FALLBACK: Final = "fallback"
FAILED: Final = "failed"
CRASHED: Final = "crashed"
HUNG: Final = "hung"
PASSED: Final = (NATIVE, FALLBACK)

_NEWEST_FORMAT: Final = 13
"""Newest IR version that onnxruntime 1.31 reads; what is newer in later ones no case uses."""

Run = Callable[[dict[str, Any]], list[Any]]


@dataclass(frozen=True)
class Outcome:
    """What came of a case: its status, why it failed, what ran on the fallback path and why.

    onnxruntime, which has one path only, passes natively. `seconds` include loading.
    """

    status: str
    detail: str = ""
    fallbacks: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the outputs were right."""
        return self.status in PASSED


def attempt(case: Case, engine: str, cache: Path) -> Outcome:
    """Run a case in ``packhorse`` or ``onnxruntime``; every exception is an outcome."""
    began = time.perf_counter()
    fallbacks: tuple[str, ...] = ()
    try:
        model, data_sets = case.content()
        if engine == "packhorse":
            run, fallbacks = _packhorse(model, cache)
        else:
            run = _onnxruntime(model)
        wrong = next(filter(None, _compare(case, model, data_sets, run)), None)
    except Exception as error:  # whatever a subject raises is its result
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    seconds = time.perf_counter() - began
    if wrong is not None:
        return Outcome(FAILED, wrong, fallbacks, seconds)
    return Outcome(FALLBACK if fallbacks else NATIVE, "", fallbacks, seconds)


def _compare(
    case: Case, model: bytes, data_sets: Sequence[DataSet], run: Run
) -> Sequence[str | None]:
    differences = []
    for inputs, expected in data_sets:
        feeds = dict(zip(_input_names(model, len(inputs)), inputs, strict=True))
        wanted = expected if expected is not None else _onnxruntime(model)(dict(feeds))
        differences.append(difference(case, run(feeds), wanted))
    return differences


def _input_names(model: bytes, count: int) -> list[str]:
    """Names of the inputs that a case gives: initialisers among them only where it gives all."""
    graph = onnx.ModelProto.FromString(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    names = [info.name for info in graph.input]
    free = [name for name in names if name not in constants]
    return free if len(free) == count else names[:count]


def _packhorse(model: bytes, cache: Path) -> tuple[Run, tuple[str, ...]]:
    import engine

    session = engine.load(model, threads=2, cache_dir=cache)
    reasons = tuple(f"{o.op}: {o.reason}" for o in session.explain().fallbacks)

    def run(feeds: dict[str, Any]) -> list[Any]:
        results = session.run(feeds)
        return [results[spec.name] for spec in session.outputs]

    return run, reasons


def _onnxruntime(model: bytes) -> Run:
    """onnxruntime, with the file's format version lowered to the newest it reads."""
    import onnxruntime

    proto = onnx.ModelProto.FromString(model)
    if proto.ir_version > _NEWEST_FORMAT:
        proto.ir_version = _NEWEST_FORMAT
        model = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(feeds: dict[str, Any]) -> list[Any]:
        results: list[Any] = session.run(None, feeds)
        return results

    return run
