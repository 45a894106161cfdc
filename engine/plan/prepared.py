"""What the offline phase makes of a model: all that a session needs, and nothing of the graph."""

from __future__ import annotations

from dataclasses import dataclass

from engine.explanation import Explanation
from engine.graph.ir import Value
from engine.plan.binding import Sealed
from engine.plan.interpreted import Control, Fallback, every
from engine.plan.measure import Measure, Requirement
from engine.plan.ragged import RaggedProgram
from engine.plan.weights import WeightMemory


@dataclass(eq=False)
class Prepared:
    """A model after the offline phase, for one instruction set and number of threads.

    `guards` are what the sizes must fulfil; `measures` tells which sizes are numbers of its inputs;
    `batching` tells whether rows are independent and why, `external` names the files beside the
    model that constants came from, `packed` names the weights that were packed. `ragged` runs
    sequences of different lengths together, or says why none of that is possible.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    segments: list[Sealed | Fallback | Control | Measure]
    guards: tuple[Requirement, ...]
    explanation: Explanation
    batching: tuple[bool, str]
    external: tuple[str, ...]
    packed: tuple[str, ...]
    weights: WeightMemory
    measures: tuple[Measure, ...] = ()
    ragged: RaggedProgram | str = "the model was not looked at"

    def programs(self) -> list[Sealed | RaggedProgram]:
        """Every native program, those of subgraphs too."""
        found: list[Sealed | RaggedProgram] = [
            segment for segment in every(self.segments) if isinstance(segment, Sealed)
        ]
        return found if isinstance(self.ragged, str) else [*found, self.ragged]

    @property
    def fallbacks(self) -> int:
        """Segments that Python runs."""
        return sum(isinstance(segment, Fallback | Control) for segment in every(self.segments))

    @property
    def storable(self) -> bool:
        """Whether it can be kept on disk: native throughout, and made from one file."""
        return not self.external and all(isinstance(s, Sealed) for s in self.segments)
