"""Sealed programs: a native segment as plain data, bound to the sizes of a request by native code.

A sealed program holds no graph and no weights. It can be pickled; `Sealed.link` then gives it the
addresses of its kernels in this process.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from engine.codegen.kernel import KernelSpec
from engine.graph.dims import Dim, DimError
from engine.graph.ir import Value
from engine.plan.dim_code import DimCode
from engine.runtime.builtin import builtin
from engine.runtime.layout import Bind, BindResult, BindStatus, Op, Program
from engine.runtime.memory import address, words
from engine.tuning import Tuning

Words = np.ndarray[Any, np.dtype[np.int64]]

BIND: Final = KernelSpec.of("bind", header=object.__basicsize__)
"""The kernel that binds every program."""

_HEAD: Final = Program.BODY // 8


@dataclass(slots=True)
class Bound:
    """A program for one set of sizes.

    `memory` is what the walker reads, in one piece; `count` the number of operations; `outputs` the
    shapes of the output arrays; `inline` whether the program is so small, or has so little that
    threads could share, that the caller runs it itself.
    """

    memory: Words
    count: int
    arena: int
    outputs: tuple[tuple[int, ...], ...]
    inline: bool
    estimate: int

    @property
    def operations(self) -> Words:
        """Every operation's words."""
        return self.memory[_HEAD : _HEAD + self.count * Op.WORDS]

    @property
    def parameters(self) -> Words:
        """Words of all parameter blocks."""
        return self.memory[_HEAD + self.count * Op.WORDS :]

    def copy(self) -> Bound:
        """The program in memory of its own."""
        made = replace(self, memory=self.memory.copy())
        made.memory[Program.OPS // 8] = address(made.operations)
        made.memory[Program.PARAMETERS // 8] = address(made.parameters)
        return made


@dataclass(slots=True)
class Series:
    """A program for several values of a size, one row each.

    `trailing` holds the values of what follows the calls' numbers in the program's code: shapes of
    the outputs, and whatever stands before them. `estimates` are in nanoseconds.
    """

    operations: Words
    parameters: Words
    trailing: Words
    estimates: Words


@dataclass(frozen=True)
class Step:
    """One kernel call: label and operator of the node it comes from, and the kernel."""

    label: str
    op: str
    spec: KernelSpec

    def __reduce__(self) -> tuple[Any, ...]:
        # A spec caches what follows from its text; that is not to be stored.
        return _step, (self.label, self.op, self.spec.family, self.spec.canonical)


def _step(label: str, op: str, family: str, canonical: str) -> Step:
    return Step(label, op, KernelSpec(family, canonical))


@dataclass(eq=False)
class Sealed:
    """A native segment, ready to be linked and bound.

    `template` holds all parameter words with the constant ones filled in, `starts` the byte offset
    of each call's block. `code` evaluates, in this order: the words at `dynamic_at`; items, costs,
    scratch and repetitions of every call; the sizes of the arena's buffers; the shapes of the
    outputs, of `ranks` axes each. Words at `arena_at` grow by the offset of the buffer in
    `arena_of`. `lifetimes` has shape [buffers, 2]: the first and last call that touch each. `needs`
    counts the leading calls that each call must wait for, `targets` holds 1 + the call with which a
    jump goes on, 0 for all other calls. A program estimated below `inline_ns` runs on the calling
    thread. `choices` tells `explain`, by the label of a node, between which candidates its
    lowering chose: name, cost in ns, note. `traffic` holds, pickled because only a profile looks at
    them, the bytes that each call reads and writes as dims.
    """

    steps: tuple[Step, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    template: Words
    starts: Words
    code: DimCode
    dynamic_at: Words
    arena_at: Words
    arena_of: Words
    lifetimes: Words
    needs: Words
    targets: Words
    ranks: tuple[int, ...]
    inline_ns: int = Tuning.inline_ns
    choices: tuple[tuple[str, tuple[tuple[str, Dim, str], ...]], ...] = ()
    traffic: bytes = b""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the sizes that binding needs, in order."""
        return self.code.symbols

    def specs(self) -> list[KernelSpec]:
        """Kernels that the program calls, and the one that binds it."""
        return [BIND, *(step.spec for step in self.steps)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def link(self, addresses: Mapping[KernelSpec, int]) -> None:
        """Fix kernel addresses; after this the program can be bound."""
        self._native: Callable[..., int] = builtin("bind", addresses[BIND])
        self._lock = threading.Lock()
        code, calls, buffers = self.code, len(self.steps), len(self.lifetimes)
        self._registers = words(code.registers)
        self._registers[len(code.symbols) + len(code.instructions) :] = code.constants
        self._values = words(len(code.results) + len(BindResult))
        self._shapes_at = len(self.dynamic_at) + 4 * calls + buffers
        first, last = np.ascontiguousarray(self.lifetimes.reshape(-1, 2).T)
        ordered = sorted(range(buffers), key=lambda i: (first[i], last[i], i))
        rank = np.empty(buffers, np.int64)
        rank[ordered] = np.arange(buffers)
        together = (first[:, None] <= last) & (first <= last[:, None])
        np.fill_diagonal(together, False)
        arrays = {
            Bind.CODE: code.instructions,
            Bind.REGISTERS: self._registers,
            Bind.RESULTS: code.results,
            Bind.VALUES: self._values,
            Bind.DYNAMIC_AT: self.dynamic_at,
            Bind.FUNCTIONS: np.array([addresses[step.spec] for step in self.steps], np.int64),
            Bind.STARTS: self.starts,
            Bind.NEEDS: self.needs,
            Bind.WAITS: np.zeros(calls, np.int64),
            Bind.TARGETS: self.targets,
            Bind.BREAKS: _breaks(self.targets),
            Bind.FIRST: first,
            Bind.LAST: last,
            Bind.RANK: rank,
            Bind.ORDER: np.array(ordered, np.int64),
            Bind.OFFSETS: np.zeros(buffers, np.int64),
            Bind.ENDS: np.zeros(buffers, np.int64),
            Bind.RIVAL_ROWS: np.cumsum([0, *together.sum(1)], dtype=np.int64),
            Bind.RIVALS: np.nonzero(together)[1].astype(np.int64),
            Bind.BUSY: np.zeros(buffers, np.int64),
            Bind.ARENA_AT: self.arena_at,
            Bind.ARENA_OF: self.arena_of,
            Bind.TEMPLATE: self.template,
        }
        counts = {
            Bind.INSTRUCTIONS: len(code.instructions),
            Bind.SYMBOLS: len(code.symbols),
            Bind.RESULT_COUNT: len(code.results),
            Bind.DYNAMIC_COUNT: len(self.dynamic_at),
            Bind.CALLS: calls,
            Bind.BUFFERS: buffers,
            Bind.ARENA_COUNT: len(self.arena_at),
            Bind.TEMPLATE_WORDS: len(self.template),
        }
        self._block = words(Bind.SIZE // 8)
        for field, array in arrays.items():
            self._block[field // 8] = address(array)
        for field, count in counts.items():
            self._block[field // 8] = count
        self._threads = 0
        # A few words are read faster through a memoryview.
        self._found = self._values.data
        self._keep = arrays
        self._size = _HEAD + calls * Op.WORDS + len(self.template)

    def bind(self, sizes: Mapping[str, int], threads: int) -> Bound:
        """The program for these sizes of its symbols. Raises DimError where they do not fit."""
        return self.bind_to([sizes[name] for name in self.code.symbols], threads)

    def bind_to(self, given: Sequence[int], threads: int) -> Bound:
        """As `bind`, for the sizes of the symbols in order."""
        memory = np.empty(self._size, np.int64)
        with self._lock:
            self._share(threads)
            try:
                status = self._native(self._block, memory, *given)
            except OverflowError:
                raise DimError(f"sizes {list(given)} exceed 64 bits") from None
            if status:
                self._refuse(given, status)
            *shapes, arena, estimate, parallel = self._found[self._shapes_at :].tolist()
        inline = threads == 1 or estimate < self.inline_ns or not parallel
        outputs = _shapes(shapes, self.ranks)
        return Bound(memory, len(self.steps), arena, outputs, inline, estimate)

    def bind_series(self, name: str, series: Sequence[int], threads: int) -> Series:
        """The program for each of several values of one size, all others being 1.

        For programs without buffers of their own. Raises DimError where a value does not fit.
        """
        count, calls = len(series), len(self.steps)
        memory = np.empty((count, self._size), np.int64)
        values = np.empty((count, len(self._values)), np.int64)
        with self._lock:
            self._share(threads)
            for number, size in enumerate(series):
                given = [size if symbol == name else 1 for symbol in self.symbols]
                status = self._native(self._block, memory[number], *given)
                if status:
                    self._refuse(given, status)
                values[number] = self._values
        behind = _HEAD + calls * Op.WORDS
        operations = memory[:, _HEAD:behind].reshape(count, calls, Op.WORDS)
        results = values.shape[1] - len(BindResult)
        estimates = values[:, results + BindResult.ESTIMATE]
        return Series(
            operations, memory[:, behind:], values[:, self._shapes_at : results], estimates
        )

    def _share(self, threads: int) -> None:
        """Cut operations for this number of threads from now on."""
        if threads != self._threads:
            self._block[Bind.THREADS // 8] = self._threads = threads

    def predict(self, sizes: Mapping[str, int], threads: int) -> list[int]:
        """Predicted nanoseconds of every call on one thread. Raises DimError as `bind`."""
        self.bind(sizes, threads)
        items = len(self.dynamic_at)
        calls = len(self.steps)
        values = self._values[items : items + 2 * calls].reshape(2, calls)
        return (values[0] * values[1]).tolist()  # type: ignore[no-any-return]

    def touched(self, sizes: Mapping[str, int]) -> list[int]:
        """Bytes that every call reads and writes, each of its tensors once."""
        # What lies here came with the program's own code out of the same store.
        return [dim.evaluate(sizes) for dim in pickle.loads(self.traffic)]

    def buffers(self) -> list[int]:
        """Bytes of the arena's buffers at the last binding."""
        end = self._shapes_at
        found: list[int] = self._values[end - len(self.lifetimes) : end].tolist()
        return found

    def offsets(self) -> list[int]:
        """Where the last binding placed the arena's buffers, in bytes."""
        offsets: list[int] = self.placed().tolist()
        return offsets

    def placed(self) -> Words:
        """As `offsets`, as an array that the next binding overwrites."""
        placed: Words = self._keep[Bind.OFFSETS]
        return placed

    def _refuse(self, sizes: Sequence[int], status: int) -> None:
        if status == BindStatus.NEGATIVE:
            # A window larger than its input leaves a negative length behind.
            raise DimError(
                f"with sizes {list(sizes)} an axis inside the model has a negative length; "
                "a window is larger than what it slides over"
            )
        self.code.evaluate(sizes)
        raise DimError(f"with sizes {list(sizes)} a tensor would need more than 63 bits of address")


def _breaks(targets: Words) -> Words:
    """1 for each call that follows a jump or is the target of one."""
    found = np.zeros(len(targets) + 1, np.int64)
    jumps = np.flatnonzero(targets)
    found[jumps + 1] = 1
    found[targets[jumps] - 1] = 1
    return found[:-1]


def _shapes(values: Sequence[int], ranks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    if len(ranks) == 1:
        return (tuple(values),)
    shapes = []
    at = 0
    for rank in ranks:
        shapes.append(tuple(values[at : at + rank]))
        at += rank
    return tuple(shapes)
