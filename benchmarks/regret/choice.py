"""One choice of the engine: every candidate forced in turn, timed beside the others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import BaseModel

import engine
from engine.plan.store import PlanStore
from engine.runtime.layout import Op

BLOCK_SECONDS = 0.001
CALLS = 3
"""Each candidate's turn takes so long, and at least so many calls."""

DOUBTED, AGAIN = 0.05, 4
"""Regret from which a case is measured again, and with how many times the rounds: on a machine that
is shared, most large regrets of few rounds are noise."""

Inputs = Mapping[str, NDArray[np.float32]]


class Choice(BaseModel):
    """One case of one part: least seconds of each candidate, and which one the engine takes."""

    part: str
    case: str
    seconds: dict[str, float]
    chosen: str

    @property
    def best(self) -> str:
        """The fastest candidate."""
        return min(self.seconds, key=self.seconds.__getitem__)

    @property
    def regret(self) -> float:
        """How much longer the chosen candidate takes than the best, as a share."""
        return self.seconds[self.chosen] / self.seconds[self.best] - 1


@contextmanager
def forced(owner: object, name: str, instead: object) -> Iterator[None]:
    """Models that are loaded meanwhile are planned with something replaced, and not kept."""
    with (
        mock.patch.object(owner, name, instead),
        mock.patch.object(PlanStore, "key", return_value=None),
    ):
        yield


def least_seconds(
    sessions: Mapping[str, engine.Session], inputs: Inputs, rounds: int
) -> dict[str, float]:
    """Seconds of a run of each session.

    All take a turn in every round, in another order each time; what counts is how a session stands
    to the others of its round, in the median over rounds, because the speed of a core drifts.
    """
    names = list(sessions)
    rows = np.empty((rounds, len(names)))
    for number in range(rounds):
        for index in np.roll(np.arange(len(names)), number).tolist():
            rows[number, index] = _least(sessions[names[index]], inputs)
    levels = np.exp(np.log(rows).mean(1, keepdims=True))
    seconds = np.median(rows / levels, 0) * levels.min()
    return dict(zip(names, seconds.tolist(), strict=True))


def checked_seconds(
    sessions: Mapping[str, engine.Session], inputs: Inputs, rounds: int, chosen: str
) -> dict[str, float]:
    """As `least_seconds`; where `chosen` looks slow, more rounds follow, and these count alone."""
    seconds = least_seconds(sessions, inputs, rounds)
    if seconds[chosen] <= (1 + DOUBTED) * min(seconds.values()):
        return seconds
    return least_seconds(sessions, inputs, AGAIN * rounds)


def _least(session: engine.Session, inputs: Inputs) -> float:
    """Least seconds of a few runs, after one that warms the caches."""
    run = session.run
    run(inputs)
    least, calls, end = np.inf, 0, perf_counter() + BLOCK_SECONDS
    while calls < CALLS or perf_counter() < end:
        begin = perf_counter()
        run(inputs)
        least = min(least, perf_counter() - begin)
        calls += 1
    return least


def bound_words(session: engine.Session, inputs: Inputs) -> bytes:
    """What a session's program is bound to at the shapes of `inputs`, but for addresses."""
    direct = session._state.direct
    assert direct is not None
    _, sizes = session._state.arguments.accept(inputs)
    bound = direct.runner.bind(sizes).bound
    table = bound.operations.reshape(bound.count, Op.WORDS)[:, Op.ITEMS // 8 :]
    return bound.parameters.tobytes() + table.tobytes()


def representatives(
    sessions: Mapping[str, engine.Session], inputs: Inputs, chosen: str
) -> dict[str, str]:
    """For every session one that does the same at these shapes: `chosen` where it does."""
    words = {name: bound_words(session, inputs) for name, session in sessions.items()}
    found: dict[bytes, str] = {words[chosen]: chosen}
    return {name: found.setdefault(own, name) for name, own in words.items()}


def convolution(outputs: int, channels: int, kernel: int, stride: int = 1, group: int = 1) -> bytes:
    """A convolution of an image of any size with a bias and ReLU, as ONNX bytes."""
    rng = np.random.default_rng(channels)
    weight = rng.standard_normal((outputs, channels // group, kernel, kernel)).astype(np.float32)
    weight /= np.float32(kernel * np.sqrt(channels // group))
    attributes = {
        "pads": [kernel // 2] * 4,
        "strides": [stride] * 2,
        "group": group,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], **attributes),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.zeros(outputs, np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def image(channels: int, side: int) -> dict[str, NDArray[np.float32]]:
    """A random square image."""
    rng = np.random.default_rng(side)
    return {"x": rng.standard_normal((1, channels, side, side), dtype=np.float32)}


def kernels_run(session: engine.Session, inputs: Inputs) -> set[str]:
    """Families of the kernels that have work at the shapes of `inputs`."""
    from engine.profile import profile

    return {call.kernel for call in profile(session, inputs, rounds=1) if call.items}
