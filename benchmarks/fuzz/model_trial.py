"""One damaged model: it is refused with an error of the engine's, or it loads and runs."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

import engine
from benchmarks.fuzz.limits import MEMORY, Peak
from benchmarks.fuzz.mutations import damage_bytes, damage_structure
from benchmarks.fuzz.outcome import RAN, REFUSED, SLOW, Outcome
from engine.errors import EngineError
from engine.pool import Pool

_MOST_ELEMENTS: Final = 1 << 20
"""Inputs of more elements are not made."""

_PATIENCE: Final = 20
"""Seconds of the CPU's time after which Python code is interrupted."""

_INTEGERS: Final = (0, 1, 2, -1, 3, 5, -7, 100, 2**31 - 1, -(2**63), 2**62)


def damaged(corpus: Sequence[bytes], seed: int, number: int) -> bytes:
    """Input `number`: a model of the corpus with its bytes or its messages changed."""
    random = Random(f"{seed} {number}")
    data, other = random.choice(corpus), random.choice(corpus)
    change = damage_bytes if random.random() < 0.35 else damage_structure
    return change(data, other, random)


def attempt(model: bytes, number: int, cache: Path) -> Outcome:
    """Load a model and run it twice on random input of random sizes."""
    peak, began = Peak(), time.perf_counter()
    Pool.of(None, cache).compiler.workers = 1  # the trials themselves run side by side
    status, detail = RAN, ""
    signal.signal(signal.SIGPROF, _interrupt)
    signal.setitimer(signal.ITIMER_PROF, _PATIENCE)
    try:
        session = engine.load(model, threads=1, cache_dir=cache)
        try:
            _run(session, Random(number))
        finally:
            session.close()
    except EngineError as error:
        status, detail = REFUSED, str(error)
    except _Interrupted as error:
        frames = traceback.extract_tb(error.__traceback__)
        slow = any("/onnx/reference/" in frame.filename for frame in frames)
        status, detail = (SLOW if slow else "hung"), _place(error)
    except BaseException as error:
        status, detail = "unexpected error", _place(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    memory = peak.added()
    if memory > MEMORY and status in (RAN, REFUSED):
        status, detail = "too much memory", f"{memory >> 20} MiB"
    return Outcome(status, detail, time.perf_counter() - began, memory)


class _Interrupted(BaseException):
    """A trial took too long inside Python."""


def _interrupt(*_: Any) -> None:
    raise _Interrupted


def _run(session: engine.Session, random: Random) -> None:
    refused: EngineError | None = None
    for _ in range(2):
        sizes: dict[str, int] = {}
        feeds = {spec.name: _value(spec, sizes, random) for spec in session.inputs}
        if any(value is _TOO_LARGE for value in feeds.values()):
            continue
        try:
            session.run(feeds)
        except EngineError as error:
            refused = error
    if refused is not None:
        raise refused


_TOO_LARGE: Final = object()


def _value(spec: engine.TensorSpec, sizes: dict[str, int], random: Random) -> Any:
    if spec.kind != "tensor":
        return [np.zeros(random.randrange(3), spec.dtype) for _ in range(random.randrange(3))]
    shape = [
        sizes.setdefault(dim, random.choice((0, 1, 1, 2, 3, 5))) if isinstance(dim, str) else dim
        for dim in spec.shape
    ]
    count = int(np.prod(shape, dtype=object))
    if count > _MOST_ELEMENTS:
        return _TOO_LARGE
    generator = np.random.default_rng(random.randrange(1 << 30))
    if spec.dtype == object:
        return np.array(["a"] * count, object).reshape(shape)
    if spec.dtype.kind in "iu":
        if random.random() < 0.5:
            return generator.integers(0, 4, shape).astype(spec.dtype)
        chosen = [value & 0xFFFF_FFFF_FFFF_FFFF for value in _INTEGERS]
        return generator.choice(np.array(chosen, np.uint64), shape).astype(spec.dtype)
    values = generator.standard_normal(shape) * random.choice((1, 1, 1e6, 1e38))
    with np.errstate(all="ignore"):
        return values.astype(spec.dtype)


def _place(error: BaseException) -> str:
    """The error and where it was raised, the innermost place of ours on the last line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/engine/" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else ""
    text = " ".join(str(error).split())[:200]
    return f"{text}\n{type(error).__name__} at {where}"
