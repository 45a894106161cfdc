"""Single products and convolutions against the arithmetic peak and onnxruntime.

`python -m benchmarks.dot` times one-layer models with the sizes of the benchmark networks, both
engines and a probe of the peak in turns in one process. Sizes of your own: ``--sizes 128x768x768``
(rows, columns, depth), ``--convolutions 8x56x56x64x64x3x1`` (batch, height, width, channels,
filters, window, stride). *Kernel* is the time in the kernel that multiplies, on one thread: a lone
convolution also converts its input and output between layouts, which a network does at its edges.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper

from benchmarks import options, tables
from benchmarks.engines import EngineSetup, Onnxruntime
from benchmarks.provenance import collect
from benchmarks.roofline import QUICK, Meter

Array = np.ndarray[Any, np.dtype[np.float32]]

PRODUCTS = (
    (1, 768, 768),
    (16, 768, 3072),
    (128, 768, 768),
    (128, 3072, 768),
    (1024, 768, 768),
    (1024, 3072, 768),
    (1024, 768, 3072),
    (1024, 384, 384),
    (960, 1024, 1024),
    (8, 1000, 2048),
)
"""Rows, columns and depth: the products of BERT-base and of the small encoder, a square, a head."""

CONVOLUTIONS = (
    (8, 224, 224, 3, 64, 7, 2),
    (8, 56, 56, 64, 64, 1, 1),
    (8, 56, 56, 64, 256, 1, 1),
    (8, 56, 56, 256, 64, 1, 1),
    (8, 28, 28, 512, 128, 1, 1),
    (8, 28, 28, 128, 512, 1, 1),
    (8, 14, 14, 1024, 256, 1, 1),
    (8, 7, 7, 512, 2048, 1, 1),
    (8, 56, 56, 64, 64, 3, 1),
    (8, 28, 28, 128, 128, 3, 1),
    (8, 14, 14, 256, 256, 3, 1),
    (8, 7, 7, 512, 512, 3, 1),
    (8, 56, 56, 128, 128, 3, 2),
    (1, 56, 56, 64, 64, 3, 1),
    (1, 14, 14, 1024, 256, 1, 1),
)
"""Batch, height, width, channels, filters, window and stride: layers of ResNet-50."""


KERNELS = frozenset({"dot", "winograd", "depthwise"})
"""Families that multiply."""


@dataclass(frozen=True)
class Layer:
    """A one-layer model, an input for it and its operations, two per multiply-add."""

    name: str
    model: onnx.ModelProto
    x: Array
    flops: int


def _model(node: onnx.NodeProto, shape: Sequence[int | str], weight: Array) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def product(m: int, n: int, k: int) -> Layer:
    """MatMul of [m, k] with constant [k, n]."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((k, n), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x = rng.standard_normal((m, k), dtype=np.float32)
    return Layer(f"{m}x{n}x{k}", _model(node, ["m", k], weight), x, 2 * m * n * k)


def convolution(
    batch: int, height: int, width: int, channels: int, filters: int, window: int, stride: int
) -> Layer:
    """Conv with a square window, padded by half of it."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((filters, channels, window, window), dtype=np.float32)
    pads = [window // 2] * 4
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=[stride] * 2)
    x = rng.standard_normal((batch, channels, height, width), dtype=np.float32)
    pixels = batch * -(-height // stride) * -(-width // stride)
    name = f"{batch}x{height}x{width} {channels}>{filters} {window}x{window}/{stride}"
    flops = 2 * pixels * filters * channels * window * window
    return Layer(name, _model(node, ["n", channels, "h", "w_"], weight), x, flops)


@dataclass(frozen=True)
class Speeds:
    """Least seconds of our call, of our kernel in it and of the peer; peak of a core in 1e9/s."""

    ours: float
    kernel: float
    peer: float
    peak: float


@dataclass
class _Timed:
    call: Any
    calls: int = 1
    best: float = float("inf")

    def block(self) -> None:
        for _ in range(self.calls):
            start = time.perf_counter()
            self.call()
            self.best = min(self.best, time.perf_counter() - start)


def measure(
    layer: Layer, threads: int, isa: str | None, rounds: int, folder: Path, meter: Meter
) -> Speeds:
    """Time a layer in turns."""
    import engine
    from engine.profile import profile

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "layer.onnx"
    onnx.save(layer.model, path)
    session = engine.load(path, threads=threads, isa=isa, cache_dir=str(folder / "code"))
    peer = Onnxruntime(path, EngineSetup("onnxruntime", threads))
    feeds = {"x": layer.x}
    turns = [_Timed(lambda: session.run(feeds)), _Timed(lambda: peer.run(feeds))]
    for turn in turns:
        turn.block()
        turn.calls = max(1, min(1000, int(0.04 / turn.best)))
    peak, kernel = 0.0, float("inf")
    for _ in range(rounds):
        peak = max(peak, meter.fp32())
        operations = profile(session, feeds, max(2, turns[0].calls // 2))
        kernel = min(kernel, sum(o.seconds for o in operations if o.kernel in KERNELS))
        for turn in turns:
            # Thread pools spin for a while after a call: nobody pays for the one before.
            time.sleep(0.02 if threads > 1 else 0.0)
            turn.block()
    return Speeds(turns[0].best, kernel, turns[1].best, peak)


def _sizes(text: str | None, count: int, default: Sequence[tuple[int, ...]]) -> list[Any]:
    if text is None:
        return list(default)
    found = [tuple(int(part) for part in size.split("x")) for size in text.split(",") if size]
    if any(len(size) != count for size in found):
        raise typer.BadParameter(f"{text!r} is not a list of {count} integers joined by x each")
    return found


def main(
    sizes: Annotated[str | None, typer.Option(help="Products; empty for none.")] = None,
    convolutions: Annotated[str | None, typer.Option(help="Convolutions; empty for none.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    isa: Annotated[str | None, typer.Option(help="Mask ours; the peak stays the widest.")] = None,
    rounds: options.Rounds = 5,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Print GFLOP/s of single layers, the ratio to onnxruntime and the share of the peak."""
    out = tables.console()
    tables.show_provenance(out, collect())
    layers = [product(*size) for size in _sizes(sizes, 3, PRODUCTS)]
    layers += [convolution(*size) for size in _sizes(convolutions, 7, CONVOLUTIONS)]
    meter = Meter(QUICK)
    table = tables.grid(
        f"Single layers, {threads} threads, 1e9 operations/s, by minima",
        *("layer", "time", "ours", "onnxruntime", "speed-up", "kernel", "peak", "of peak"),
    )
    for layer in layers:
        speeds = measure(layer, threads, isa, rounds, cache / "layers", meter)
        table.add_row(
            layer.name,
            tables.duration(speeds.ours),
            *(f"{layer.flops / t / 1e9:.1f}" for t in (speeds.ours, speeds.peer)),
            tables.ratio(speeds.peer / speeds.ours),
            f"{layer.flops / speeds.kernel / 1e9:.1f}",
            f"{speeds.peak:.1f}",
            tables.percent(layer.flops / speeds.kernel / 1e9 / speeds.peak),
        )
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
