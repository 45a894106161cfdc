"""What the engine chooses between: algorithms of convolutions, and schedules of products."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import engine
from benchmarks.regret.choice import (
    Choice,
    Inputs,
    checked_seconds,
    convolution,
    forced,
    image,
    kernels_run,
    representatives,
)
from engine.choices import shaped_calls
from engine.codegen.target import select
from engine.kernels.winograd import OUTPUTS
from engine.plan import dot_call
from engine.plan.lower import convolution as lowering
from engine.plan.lower.minimal_filtering import DIRECT, Filtering, algorithm, filterings
from engine.plan.tensor import ONE, ZERO
from engine.tuner import ITEMS_PER_THREAD, ROW_BLOCKS, product_model
from engine.tuning import Tuning, read_tuning

CHANNELS = (8, 16, 32, 64, 128, 256, 512)
SIDES = (7, 10, 14, 20, 28, 56, 112, 224)
LARGEST_FLOPS = 4e9
ROWS = (1, 8, 32, 128, 512, 2048)
DEPTHS_AND_COLUMNS = ((384, 384), (768, 768), (768, 3072), (3072, 768), (64, 256), (512, 128))
DEPTHWISE_CHANNELS = (32, 96, 192, 384)
DEPTHWISE_SIDES = (7, 14, 28, 56)


@dataclass(frozen=True)
class Setup:
    """How a part is measured; cases in `done`, by part and name, are left out."""

    threads: int
    rounds: int
    cache: Path
    quick: bool = False
    done: frozenset[tuple[str, str]] = frozenset()

    def left(self, part: str, cases: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """The named cases of a part that are still to be measured."""
        return [(name, case) for name, case in cases if (part, name) not in self.done]

    def load(self, model: bytes, **options: object) -> engine.Session:
        """Load a model with this setup."""
        return engine.load(model, self.threads, cache_dir=self.cache, **options)  # type: ignore[arg-type]


def pairs() -> list[tuple[int, int]]:
    """Channels in and out of 3x3 convolutions in use: equal, widening and narrowing."""
    equal = [(c, c) for c in CHANNELS]
    wide = [(c, 2 * c) for c in CHANNELS if c < 512]
    return equal + wide + [(o, c) for c, o in wide]


def sides(channels: int, outputs: int) -> list[int]:
    """Sides of images that are not too much work for a benchmark."""
    return [side for side in SIDES if 18.0 * channels * outputs * side**2 <= LARGEST_FLOPS]


def always(size: int) -> Callable[..., list[Filtering]]:
    """In place of `filterings`: tiles of `size` pixels per axis, whatever they cost."""

    def found(*arguments: Any) -> list[Filtering]:
        return [replace(each, pays=ONE) for each in filterings(*arguments[:4], (size,))]

    return found


def _chosen(session: engine.Session, inputs: Inputs) -> str:
    """The algorithm of the convolution that has work at the shapes of `inputs`."""
    return next(
        call.chosen for call in shaped_calls(session, inputs, 1) if call.items and call.chosen
    )


def filtering(setup: Setup) -> Iterator[Choice]:
    """Minimal filtering (Winograd) or the direct sum (implicit GEMM) for 3x3 convolutions."""
    for channels, outputs in pairs()[:: 5 if setup.quick else 1]:
        images = sides(channels, outputs)[:: 4 if setup.quick else 1]
        named = [(f"{channels} to {outputs} channels, side {side}", side) for side in images]
        left = setup.left("filtering", named)
        if not left:
            continue
        model = convolution(outputs, channels, 3)
        sessions = {DIRECT: setup.load(model, winograd=False)}
        for size in OUTPUTS:
            with forced(lowering, "filterings", always(size)):
                sessions[algorithm(size)] = setup.load(model)
        free = setup.load(model)
        for case, side in left:
            inputs = image(channels, side)
            chosen = _chosen(free, inputs)
            yield Choice(
                part="filtering",
                case=case,
                seconds=checked_seconds(sessions, inputs, setup.rounds, chosen),
                chosen=chosen,
            )


def depthwise(setup: Setup) -> Iterator[Choice]:
    """Channels as vectors or one small product per group, where every channel has a filter."""

    def products(low: object, g: object, weight: object, *rest: object) -> None:
        channels = weight.shape[0].value  # type: ignore[attr-defined]
        lowering._dense(low, g, weight, channels, *rest)  # type: ignore[arg-type]

    for channels in DEPTHWISE_CHANNELS[:: 3 if setup.quick else 1]:
        images = DEPTHWISE_SIDES[:: 3 if setup.quick else 1]
        named = [(f"{channels} channels, side {side}", side) for side in images]
        left = setup.left("depthwise", named)
        if not left:
            continue
        model = convolution(channels, channels, 3, group=channels)
        own = setup.load(model)
        with forced(lowering, "_depthwise", products):
            sessions = {"depthwise": own, "products": setup.load(model)}
        for case, side in left:
            inputs = image(channels, side)
            chosen = "depthwise" if "depthwise" in kernels_run(own, inputs) else "products"
            yield Choice(
                part="depthwise",
                case=case,
                seconds=checked_seconds(sessions, inputs, setup.rounds, chosen),
                chosen=chosen,
            )


def copying(setup: Setup) -> Iterator[Choice]:
    """Rows of a convolution's input copied once per work item, or read in place."""
    cases = [(kernel, stride, c) for kernel, stride in ((3, 1), (3, 2), (1, 2)) for c in CHANNELS]
    for kernel, stride, channels in cases[:: 7 if setup.quick else 1]:
        kind = f"{kernel}x{kernel} stride {stride}, {channels} channels"
        images = sides(channels, channels)[1 :: 2 if not setup.quick else 5]
        left = setup.left("copying", [(f"{kind}, side {side}", side) for side in images])
        if not left:
            continue
        model = convolution(channels, channels, kernel, stride)
        sessions = {}
        for name, flag in (("copied", ONE), ("in place", ZERO)):
            with forced(dot_call, "_copied", lambda *_, flag=flag: flag):
                sessions[name] = setup.load(model, winograd=False)
        own = setup.load(model, winograd=False)
        for case, side in left:
            inputs = image(channels, side)
            chosen = "copied" if _copies(own, inputs) else "in place"
            yield Choice(
                part="copying",
                case=case,
                seconds=checked_seconds(sessions, inputs, setup.rounds, chosen),
                chosen=chosen,
            )


def _copies(session: engine.Session, inputs: Mapping[str, np.ndarray]) -> bool:  # type: ignore[type-arg]
    """Whether the product that a session binds copies its rows."""
    direct = session._state.direct
    assert direct is not None
    _, sizes = session._state.arguments.accept(inputs)
    program, bound = direct.runner.program, direct.runner.bind(sizes).bound
    places = [
        start // 8 + step.spec.layout.fields["copied"].word
        for step, start in zip(program.steps, program.starts.tolist(), strict=True)
        if step.spec.family == "dot"
    ]
    return any(bound.parameters[place] for place in places)


def schedules(own: Tuning) -> dict[str, Tuning]:
    """Every schedule that `packhorse tune` chooses between, and the one in use."""
    tried = [
        replace(own, row_block=rows, items_per_thread=items)
        for rows in ROW_BLOCKS
        for items in ITEMS_PER_THREAD
    ]
    return {f"{each.row_block}/{each.items_per_thread}": each for each in [*tried, own]}


def products(setup: Setup) -> Iterator[Choice]:
    """Rows per work item and work items per thread of matrix products."""
    own = read_tuning(select(None).name)
    chosen = f"{own.row_block}/{own.items_per_thread}"
    for depth, columns in DEPTHS_AND_COLUMNS[:: 3 if setup.quick else 1]:
        kind = f"depth {depth}, {columns} columns"
        counts = ROWS[:: 3 if setup.quick else 1]
        left = setup.left("products", [(f"{rows} rows, {kind}", rows) for rows in counts])
        if not left:
            continue
        model = product_model(1, depth, columns)
        sessions = {
            name: setup.load(model, tuning=tuning) for name, tuning in schedules(own).items()
        }
        for case, rows in left:
            x = np.random.default_rng(rows).standard_normal((rows, depth), dtype=np.float32)
            alike = representatives(sessions, {"x": x}, chosen)
            tried = {name: sessions[name] for name in alike.values()}
            if len(tried) > 1:
                seconds = checked_seconds(tried, {"x": x}, setup.rounds, chosen)
                yield Choice(
                    part="products",
                    case=case,
                    seconds={name: seconds[alike[name]] for name in sessions},
                    chosen=chosen,
                )


PARTS: Mapping[str, Callable[[Setup], Iterator[Choice]]] = {
    part.__name__: part for part in (filtering, depthwise, copying, products)
}
