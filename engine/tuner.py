"""Measures the constants of `engine.tuning` on this machine.

Candidates take turns on the same products, each on weights packed once. A constant leaves its
default only for a gain that noise does not explain.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.codegen.target import select
from engine.loading import load
from engine.session import Session
from engine.tuning import Tuning

ROW_BLOCKS: Final = (48, 96, 144, 192)
ITEMS_PER_THREAD: Final = (4, 8, 16)
PRODUCTS: Final = (
    (32, 384, 384),
    (128, 768, 768),
    (128, 768, 3072),
    (512, 1024, 256),
    (3136, 64, 256),
    (784, 512, 128),
)
"""Rows, depth and columns of products as transformers and convolutional networks have them."""

GAIN: Final = 0.02
"""Least gain for which a constant leaves its default."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """One constant: what was tried, relative time of each candidate (default 1), the choice."""

    name: str
    times: dict[int, float]
    chosen: int


def product_model(rows: int, depth: int, columns: int) -> bytes:
    """``y = x @ w`` with x [rows, depth] and constant w [depth, columns], as ONNX bytes."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(depth).standard_normal((depth, columns)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", columns])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def least_times(
    sessions: Sequence[Session], inputs: dict[str, NDArray[np.float32]], rounds: int
) -> list[float]:
    """Least seconds of a run of each session, which take turns."""
    least = [math.inf] * len(sessions)
    for _ in range(rounds):
        for index, session in enumerate(sessions):
            for _ in range(3):
                begin = time.perf_counter()
                session.run(inputs)
                least[index] = min(least[index], time.perf_counter() - begin)
    return least


def tune(
    threads: int | None = None,
    isa: str | None = None,
    folder: Path | None = None,
    rounds: int = 30,
    report: Report = lambda stage: None,
) -> tuple[Tuning, list[Finding]]:
    """The constants for this machine, and how each was found; some ten seconds.

    `threads`, `isa` and `folder` are those of `engine.load`.
    """
    tuning = Tuning()
    findings = []
    for name, candidates in (
        ("row_block", ROW_BLOCKS),
        ("items_per_thread", ITEMS_PER_THREAD),
    ):
        report(name.replace("_", " "))
        tunings = [replace(tuning, **{name: value}) for value in candidates]
        relative = [0.0] * len(candidates)
        for rows, depth, columns in PRODUCTS:
            data = product_model(rows, depth, columns)
            sessions = [
                load(data, threads, isa=isa, cache_dir=folder, tuning=each) for each in tunings
            ]
            x = np.ones((rows, depth), np.float32)
            times = least_times(sessions, {"x": x}, rounds)
            for index, seconds in enumerate(times):
                relative[index] += math.log(seconds) / len(PRODUCTS)
        own = relative[candidates.index(getattr(tuning, name))]
        shares = {
            value: math.exp(log - own) for value, log in zip(candidates, relative, strict=True)
        }
        best = min(shares, key=shares.__getitem__)
        chosen = best if shares[best] < 1 - GAIN else getattr(tuning, name)
        findings.append(Finding(name, shares, chosen))
        tuning = replace(tuning, **{name: chosen})
    report("speed of products")
    speed = lane_speed(isa, folder, rounds)
    findings.append(Finding("lane_flops_per_us", {speed: 1.0}, speed))
    report("waking threads")
    waking = waking_ns(threads, isa, folder, rounds)
    findings.append(Finding("inline_ns", {waking: 1.0}, waking))
    return replace(tuning, lane_flops_per_us=speed, inline_ns=waking), findings


def lane_speed(isa: str | None, folder: Path | None, rounds: int) -> int:
    """Operations per microsecond and vector lane of one core in a product of 384 x 512 x 768."""
    session = load(product_model(384, 512, 768), 1, isa=isa, cache_dir=folder)
    (seconds,) = least_times([session], {"x": np.ones((384, 512), np.float32)}, rounds)
    return max(1, round(2 * 384 * 512 * 768 / seconds / 1e6 / select(isa).lanes()))


def waking_ns(threads: int | None, isa: str | None, folder: Path | None, rounds: int) -> int:
    """Nanoseconds that a program must take before sharing it among threads pays.

    The same small product on the caller's thread and on the gang, once with one item to share: the
    difference is the price of handing over, which two threads win back after twice as long.
    """
    tiny = product_model(1, 16, 16)
    alone = load(tiny, threads, isa=isa, cache_dir=folder, tuning=Tuning(inline_ns=10**9))
    shared = load(tiny, threads, isa=isa, cache_dir=folder, tuning=Tuning(inline_ns=1))
    inputs = {"x": np.ones((1, 16), np.float32)}
    here, there = least_times([alone, shared], inputs, rounds)
    return min(200_000, max(5_000, round(2e9 * (there - here))))
