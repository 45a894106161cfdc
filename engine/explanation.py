"""What the engine did with a model: its graph before and after the passes, its kernels."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PassNote:
    """One pass over the graph: how many places it changed, and why near-matches were left alone."""

    name: str
    changed: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One node of the final graph and what runs it.

    `kernel` names the kernel, or the fallback; `reason` says why it was chosen, for a fallback why
    nothing native fits; `shapes` are the output shapes, with names for symbolic dims;
    `packed_bytes` is the size of the weights that were packed for it.
    """

    node: str
    op: str
    kernel: str
    native: bool
    reason: str = ""
    packed_bytes: int = 0
    shapes: tuple[tuple[int | str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a model runs: passes in the order they ran, operations in the order of execution.

    `graph_before` and `graph_after` print the graph one line per node, as read and as run. `ragged`
    tells whether sequences of different lengths run together, `ragged_reason` how, or why not.
    `precision` says in which type products multiply, and where that is not what was asked for, why.
    """

    model: str
    isa: str
    threads: int
    nodes_before: int
    nodes_after: int
    passes: tuple[PassNote, ...]
    operations: tuple[Operation, ...]
    packed_bytes: int
    graph_before: tuple[str, ...] = ()
    graph_after: tuple[str, ...] = ()
    ragged: bool = False
    ragged_reason: str = ""
    precision: str = "fp32"

    @property
    def fallbacks(self) -> tuple[Operation, ...]:
        """Operations that have no native kernel and run on the reference implementation."""
        return tuple(operation for operation in self.operations if not operation.native)

    @property
    def fallback_count(self) -> int:
        """Number of operations without a native kernel."""
        return len(self.fallbacks)
