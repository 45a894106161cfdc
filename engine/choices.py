"""Why a model runs as it does at one shape: what each call was predicted to cost, and what it does.

Predictions are those that binding uses: nanoseconds on one thread. Candidates of a node are the
algorithms between which its arithmetic plan chose; what is not chosen has no measured time here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.codegen.kernel import KernelSpec
from engine.plan.lower.minimal_filtering import DIRECT, algorithm
from engine.profile import profile
from engine.session import Session


def _algorithm(spec: KernelSpec) -> str:
    """Name of the candidate of a convolution that a kernel carries out; empty for other kernels."""
    if spec.family == "winograd":
        return algorithm(spec.options["outputs"])
    return DIRECT if spec.family == "dot" else ""


@dataclass(frozen=True)
class Alternative:
    """One algorithm that a node may take: predicted seconds, and what else decided."""

    name: str
    predicted: float
    note: str = ""


@dataclass(frozen=True)
class ShapedCall:
    """One kernel call at one shape, on one thread.

    `items` are its work items, `predicted` and `measured` seconds; `chosen` says which of the
    `alternatives` it is, empty where the node had only one.
    """

    node: str
    op: str
    kernel: str
    items: int
    predicted: float
    measured: float
    chosen: str = ""
    alternatives: tuple[Alternative, ...] = ()

    @property
    def why(self) -> str:
        """The reason for the choice, for people."""
        if not self.alternatives:
            return ""
        others = [each for each in self.alternatives if each.name != self.chosen]
        own = next(each for each in self.alternatives if each.name == self.chosen)
        parts = []
        for other in others:
            if other.note:
                parts.append(f"{other.name}: {other.note}")
            else:
                ratio = other.predicted / max(own.predicted, 1e-9)
                parts.append(f"{other.name} predicted at {ratio:.2f}x")
        return f"{self.chosen}; " + ", ".join(parts)


def shaped_calls(session: Session, inputs: Mapping[str, Any], rounds: int = 10) -> list[ShapedCall]:
    """Every kernel call of a model on inputs of one shape, in the order of execution.

    Raises InputError for inputs that do not fit, ValueError for a model with fallback segments.
    """
    times = profile(session, inputs, rounds)
    direct = session._state.direct
    assert direct is not None
    _, sizes = session._state.arguments.accept(inputs)
    program = direct.runner.program
    predicted = program.predict(sizes, session._gang.threads)
    choices = {
        label: tuple(
            Alternative(name, cost.evaluate(sizes) / 1e9, note) for name, cost, note in candidates
        )
        for label, candidates in program.choices
    }
    calls = []
    for time, cost, step in zip(times, predicted, program.steps, strict=True):
        chosen = _algorithm(step.spec)
        alternatives = choices.get(time.node, ()) if chosen else ()
        if not alternatives:
            chosen = ""
        calls.append(
            ShapedCall(
                time.node,
                time.op,
                time.kernel,
                time.items,
                cost / 1e9,
                time.seconds,
                chosen,
                alternatives,
            )
        )
    return calls


def slices_of(session: Session, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Rows of the slices in which a batch runs, see `engine.slices`; empty where it runs whole."""
    direct = session._state.direct
    if direct is None:
        return ()
    _, sizes = session._state.arguments.accept(inputs)
    return tuple(end - begin for begin, end, _ in direct.runner.bind(sizes).slices)
