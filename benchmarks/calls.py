"""What lies around a small program: ``python -m benchmarks.calls``.

The four-layer MLP at batch 1 on one thread: the native program alone, a call with bound inputs and
outputs, `run({...})` to its arrays, and onnxruntime's `run`. All take turns in one process.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from pydantic import BaseModel

import engine
from benchmarks import options, tables
from benchmarks.models import MODELS, case_inputs, model_path
from benchmarks.provenance import Provenance, collect
from engine.runtime.gang import Spare

Call = Callable[[], Any]
BLOCK = 100
"""Calls per block: a clock's own time then counts little."""

BOUNDS = {"native program": 3.0, "bound call": 5.0, "run": 6.0, "onnxruntime run": None}
"""Most microseconds."""


class CallTime(BaseModel):
    """Seconds of a call: least and median over blocks."""

    name: str
    least: float
    median: float
    bound: float | None


class CallsReport(BaseModel):
    """All calls, and where the figures come from."""

    provenance: Provenance
    calls: list[CallTime]


def _calls(path: Path, inputs: dict[str, Any], cache: Path) -> dict[str, Call]:
    session = engine.load(path, threads=1, cache_dir=cache)
    bound = session.bind(inputs)
    native = _native(session, inputs)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    other = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    calls = (native, bound, lambda: session.run(inputs), lambda: other.run(None, inputs))
    return dict(zip(BOUNDS, calls, strict=True))


def _native(session: engine.Session, inputs: dict[str, Any]) -> Call:
    """The program on arrays that are there: what a bound call calls."""
    state = session._state
    assert state.direct is not None
    runner = state.direct.runner
    arrays, sizes = state.arguments.accept(inputs)
    ready = runner.bind(sizes)
    given = [runner.base, *state.direct.reads(arrays), *runner.new_outputs(ready)]
    spare = Spare()
    spare.grow(ready.bound.arena, len(given))
    inline, memory = runner.gang.native.inline, ready.bound.memory
    return lambda: inline(memory, spare.memory, *given)


def measure(calls: dict[str, Call], blocks: int) -> list[CallTime]:
    """Every call in blocks, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(blocks):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(BLOCK):
                call()
            seconds[name].append((time.perf_counter() - start) / BLOCK)
    return [
        CallTime(name=name, least=min(found), median=float(np.median(found)), bound=BOUNDS[name])
        for name, found in seconds.items()
    ]


def main(
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of 100 calls of each kind.")] = 600,
    json_file: options.JsonFile = None,
    quick: options.Quick = False,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Measure and print; a bound that is missed is marked."""
    out = tables.console()
    provenance = collect()
    tables.show_provenance(out, provenance)
    model = MODELS["mlp"]
    calls = _calls(model_path(model, cache), case_inputs(model, {"batch": 1}), cache)
    found = measure(calls, 2 if quick else blocks)
    for call in found:
        text = f"{call.name:<16} {call.least * 1e6:6.2f} µs (median {call.median * 1e6:.2f}"
        text += ")" if call.bound is None else f", bound {call.bound:g})"
        missed = call.bound is not None and call.least * 1e6 > call.bound
        out.print(f"[red]{text} missed[/]" if missed else text)
    report = CallsReport(provenance=provenance, calls=found)
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)
