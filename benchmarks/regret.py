"""What a wrong choice costs: ``python -m benchmarks.regret``.

For every shape of a grid, each candidate is forced in turn and timed beside the others; regret is
how much longer the one that the engine chooses takes than the best of them. Candidates are what
the arithmetic plan chooses between for a 3x3 convolution (minimal filtering and the direct sum),
and the schedules of matrix products (rows per work item, work items per thread).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Annotated
from unittest import mock

import numpy as np
import typer
from onnx import TensorProto, helper, numpy_helper
from pydantic import BaseModel
from rich.console import Console
from rich.status import Status

import engine
from benchmarks import options, tables
from benchmarks.provenance import Provenance, collect
from engine.codegen.target import select
from engine.plan.lower import convolution, minimal_filtering
from engine.plan.tensor import ONE
from engine.tuner import ITEMS_PER_THREAD, ROW_BLOCKS, least_times, product_model
from engine.tuning import Tuning, read_tuning

CHANNELS = (16, 32, 64, 128, 256, 512)
SIDES = (7, 10, 14, 20, 28, 56, 112, 224)
LARGEST_FLOPS = 4e9
ROWS = (1, 8, 32, 128, 512, 2048)
DEPTHS_AND_COLUMNS = ((384, 384), (768, 768), (768, 3072), (3072, 768), (64, 256), (512, 128))
BLOCK_SECONDS = 0.02


@dataclass(frozen=True)
class Shape:
    """One 3x3 convolution: channels in and out, side of the image, images."""

    channels: int
    outputs: int
    side: int
    batch: int = 1

    @property
    def flops(self) -> float:
        """Operations of the direct sum."""
        return 18.0 * self.channels * self.outputs * self.side**2 * self.batch


def grid(quick: bool) -> list[Shape]:
    """Shapes of networks in use: equal, widening and narrowing channels."""
    pairs = [(c, c) for c in CHANNELS]
    pairs += [(c, 2 * c) for c in CHANNELS if c < 512] + [(2 * c, c) for c in CHANNELS if c < 512]
    shapes = [Shape(c, o, side) for c, o in pairs for side in SIDES]
    shapes = [shape for shape in shapes if shape.flops <= LARGEST_FLOPS]
    return shapes[::9] if quick else shapes


def model(shape: Shape) -> bytes:
    """The convolution with a bias and ReLU, height and width symbolic."""
    rng = np.random.default_rng(shape.channels)
    weight = rng.standard_normal((shape.outputs, shape.channels, 3, 3)).astype(np.float32)
    weight /= np.float32(3 * np.sqrt(shape.channels))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", shape.channels, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.zeros(shape.outputs, np.float32), "b"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = made.SerializeToString()
    return data


@contextmanager
def filtered_always() -> Iterator[None]:
    """Models that are loaded meanwhile filter wherever that is possible at all."""
    real = minimal_filtering.minimal_filtering

    def always(*arguments: object) -> minimal_filtering.Filtering:
        return replace(real(*arguments), pays=ONE)  # type: ignore[arg-type]

    with mock.patch.object(convolution, "minimal_filtering", always):
        yield


class RegretRow(BaseModel):
    """One shape: least seconds of each candidate and of the engine's own choice."""

    channels: int
    outputs: int
    side: int
    filtered: float
    direct: float
    chosen: str

    @property
    def regret(self) -> float:
        """How much longer the choice takes than the best, as a share."""
        own = self.filtered if self.chosen == "filtered" else self.direct
        return own / min(self.filtered, self.direct) - 1


class ScheduleRow(BaseModel):
    """One product: least seconds of every schedule, and which one the engine takes."""

    rows: int
    depth: int
    columns: int
    seconds: dict[str, float]
    chosen: str

    @property
    def regret(self) -> float:
        """How much longer the choice takes than the best, as a share."""
        return self.seconds[self.chosen] / min(self.seconds.values()) - 1


class RegretReport(BaseModel):
    """Everything measured."""

    provenance: Provenance
    rows: list[RegretRow]
    schedules: list[ScheduleRow]


def chosen(session: engine.Session, shape: Shape) -> str:
    """Which candidate the engine binds for a shape."""
    from engine.profile import profile

    x = np.zeros((1, shape.channels, shape.side, shape.side), np.float32)
    calls = profile(session, {"x": x}, rounds=1)
    return "filtered" if any(c.kernel == "winograd" and c.items for c in calls) else "direct"


def measure(shape: Shape, threads: int, rounds: int, cache: Path) -> RegretRow:
    """Time both candidates by turns."""
    data = model(shape)
    # A folder of its own: a plan from the other store would be that of the free choice.
    with filtered_always():
        filtered = engine.load(data, threads, cache_dir=cache / "filtered")
    direct = engine.load(data, threads, cache_dir=cache, winograd=False)
    free = engine.load(data, threads, cache_dir=cache)
    x = np.random.default_rng(1).standard_normal((1, shape.channels, shape.side, shape.side))
    inputs = {"x": x.astype(np.float32)}
    least = {"filtered": np.inf, "direct": np.inf}
    for _ in range(rounds):
        for name, session in (("filtered", filtered), ("direct", direct)):
            sleep(0.002)
            end = perf_counter() + BLOCK_SECONDS
            while True:
                begin = perf_counter()
                session.run(inputs)
                now = perf_counter()
                least[name] = min(least[name], now - begin)
                if now > end:
                    break
    return RegretRow(
        channels=shape.channels,
        outputs=shape.outputs,
        side=shape.side,
        chosen=chosen(free, shape),
        **least,
    )


def show(out: Console, rows: Sequence[RegretRow]) -> None:
    """Print the worst choices, then the mean."""
    table = tables.grid(
        "3x3 convolutions, worst choices first",
        *("channels", "outputs", "side", "filtered", "direct", "chosen", "regret"),
        left=0,
    )
    for row in sorted(rows, key=lambda row: -row.regret)[:25]:
        table.add_row(
            *map(str, (row.channels, row.outputs, row.side)),
            tables.duration(row.filtered),
            tables.duration(row.direct),
            row.chosen,
            f"{100 * row.regret:.1f} %",
        )
    out.print(table)
    regrets = [row.regret for row in rows]
    out.print(
        f"{len(rows)} shapes: mean regret {100 * float(np.mean(regrets)):.1f} %, "
        f"worst {100 * max(regrets):.1f} %"
    )


def schedules(own: Tuning) -> dict[str, Tuning]:
    """Every schedule that `packhorse tune` chooses between, and the one in use."""
    tried = [
        replace(own, row_block=rows, items_per_thread=items)
        for rows in ROW_BLOCKS
        for items in ITEMS_PER_THREAD
    ]
    return {f"{each.row_block}/{each.items_per_thread}": each for each in [*tried, own]}


def measure_products(
    depth: int, columns: int, threads: int, rounds: int, cache: Path
) -> list[ScheduleRow]:
    """Time every schedule by turns, at several numbers of rows."""
    own = read_tuning(select(None).name)
    data = product_model(1, depth, columns)
    sessions = {
        name: engine.load(data, threads, cache_dir=cache, tuning=tuning)
        for name, tuning in schedules(own).items()
    }
    found = []
    for rows in ROWS:
        x = np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float32)
        times = least_times(list(sessions.values()), {"x": x}, 4 * rounds)
        found.append(
            ScheduleRow(
                rows=rows,
                depth=depth,
                columns=columns,
                seconds=dict(zip(sessions, times, strict=True)),
                chosen=f"{own.row_block}/{own.items_per_thread}",
            )
        )
    return found


def show_schedules(out: Console, rows: Sequence[ScheduleRow]) -> None:
    """Print the worst choices, then the mean."""
    table = tables.grid(
        "Products, worst schedules first (rows per item / items per thread)",
        *("rows", "depth", "columns", "chosen", "time", "best", "time", "regret"),
        left=0,
    )
    for row in sorted(rows, key=lambda row: -row.regret)[:15]:
        best = min(row.seconds, key=row.seconds.__getitem__)
        table.add_row(
            *map(str, (row.rows, row.depth, row.columns, row.chosen)),
            tables.duration(row.seconds[row.chosen]),
            best,
            tables.duration(row.seconds[best]),
            f"{100 * row.regret:.1f} %",
        )
    out.print(table)
    regrets = [row.regret for row in rows]
    out.print(
        f"{len(rows)} products: mean regret {100 * float(np.mean(regrets)):.1f} %, "
        f"worst {100 * max(regrets):.1f} %"
    )


def main(
    threads: Annotated[int, typer.Option(min=1)] = 1,
    rounds: options.Rounds = 5,
    quick: options.Quick = False,
    json_file: options.JsonFile = None,
    cache: options.CacheFolder = options.DEFAULT_CACHE,
) -> None:
    """Compare the engine's choices with the measured best over a grid of shapes."""
    out = tables.console()
    provenance = collect()
    tables.show_provenance(out, provenance)
    rows = []
    shapes = grid(quick)
    with Status("", console=out) as status:
        for number, shape in enumerate(shapes):
            status.update(f"{number} of {len(shapes)}: {shape}")
            rows.append(measure(shape, threads, rounds, cache / "code"))
        products = []
        for depth, columns in DEPTHS_AND_COLUMNS[:: 3 if quick else 1]:
            status.update(f"product of depth {depth}, {columns} columns")
            products += measure_products(depth, columns, threads, rounds, cache / "code")
    show(out, rows)
    show_schedules(out, products)
    report = RegretReport(provenance=provenance, rows=rows, schedules=products)
    options.write_text(json_file, report.model_dump_json(indent=1))


if __name__ == "__main__":
    typer.run(main)
