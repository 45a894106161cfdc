"""Gangs: teams of native threads that run jobs from a queue.

The threads are created through pthreads, never hold the GIL and are no Python threads. A gang runs
one job at a time, with all its threads, in the order of submission. All sessions of a process that
use the same number of threads share one gang, so models take turns instead of fighting over cores.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Final

import numpy as np

from engine import cpu
from engine.codegen.compiler import Compiler
from engine.codegen.kernel import KernelSpec
from engine.errors import EngineError
from engine.runtime.builtin import builtin
from engine.runtime.layout import Gang as GangLayout
from engine.runtime.layout import Job as JobLayout
from engine.runtime.layout import Member, counter_bytes
from engine.runtime.layout import Spare as SpareLayout
from engine.runtime.memory import Arena, Block, address, words

Array = np.ndarray[Any, Any]
Words = np.ndarray[Any, np.dtype[np.int64]]

SCRATCH: Final = 64 << 20
"""Bytes reserved per thread for kernels' scratch; committed only where touched."""

SPIN_CYCLES: Final = 60_000
"""Longest spin before a thread sleeps: some 25 µs at 2.5 GHz, about the price of a futex sleep and
wake-up (pure spinning collapses where cores are shared)."""

_CALLER_SPIN: Final = 2_000
"""Spin of the waiting caller: short, because the gang's threads own the cores."""

_ENTRY: Final = ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)


class Native:
    """The walker's entry points as Python callables; they release the GIL."""

    def __init__(self, compiler: Compiler) -> None:
        entries = ("gang", "submit", "wait", "stop")
        specs = {entry: KernelSpec.of("walker", entry=entry) for entry in entries}
        specs["inline"] = KernelSpec.of("walker", entry="inline", header=object.__basicsize__)
        found = compiler.functions(specs.values())
        self.gang_address = found[specs["gang"]]
        self.submit = _ENTRY(found[specs["submit"]])
        self.wait = _ENTRY(found[specs["wait"]])
        self.inline: Callable[..., int] = builtin("inline", found[specs["inline"]])
        self.stop = _ENTRY(found[specs["stop"]])


class Job:
    """One run of a bound program; reused once every thread of its gang has passed it.

    `bases` holds the base pointers and `words` the job's fields, as memoryviews, which are the
    fastest to write from Python; all of a job is one piece of memory.
    """

    __slots__ = ("_keep", "address", "bases", "memory", "ticket", "words")

    def __init__(
        self,
        operations: np.ndarray[Any, Any],
        count: int,
        parameters: np.ndarray[Any, Any],
        bases: int,
        threads: int,
    ) -> None:
        size = JobLayout.SIZE // 8
        counters = size + -(-bases // 8) * 8
        memory = words(counters + counter_bytes(count, threads) // 8)
        self._keep = (operations, parameters)
        self.memory = memory
        self.address = start = address(memory)
        view = memory.data
        self.words = fields = view[:size]
        self.bases = view[size:counters]
        self.ticket = -1
        fields[JobLayout.OPS // 8] = address(operations)
        fields[JobLayout.COUNT // 8] = count
        fields[JobLayout.PARAMETERS // 8] = address(parameters)
        fields[JobLayout.BASES // 8] = start + 8 * size
        fields[JobLayout.COUNTERS // 8] = start + 8 * counters
        fields[JobLayout.NOTIFY // 8] = -1

    def notify(self, descriptor: int) -> None:
        """Write to this eventfd when finished; -1 for none."""
        self.words[JobLayout.NOTIFY // 8] = descriptor

    @property
    def finished(self) -> bool:
        """Whether every operation is done."""
        return int(self.words[JobLayout.FINISHED // 8]) & 0xFFFFFFFF == 1

    @property
    def position(self) -> int:
        """A number that changes with every claim of work while the job runs."""
        first = (int(self.words[JobLayout.COUNTERS // 8]) - self.address) // 8
        return int(self.memory[first:].sum())

    @property
    def status(self) -> int:
        """0, or (operation + 1) << 8 | kernel status of the first failure."""
        return int(self.words[JobLayout.STATUS // 8])


class Spare:
    """What a caller needs that runs a program itself: scratch, an arena of `size` bytes, and
    `memory` for the addresses of `places` arrays."""

    __slots__ = ("_arena", "_scratch", "memory", "places", "size")

    def __init__(self) -> None:
        self._arena = Arena()
        self._scratch: Block | None = None
        self.memory = words(0)
        self.places = self.size = -1

    def grow(self, size: int, places: int) -> None:
        """Make the arena at least `size` bytes, and room for `places` arrays."""
        if self._scratch is None:
            self._scratch = Block(SCRATCH, huge=False)
        block = self._arena.at_least(size)
        first = SpareLayout.BASES // 8
        self.memory = words(first + 1 + places)
        self.memory[SpareLayout.SCRATCH // 8] = self._scratch.address
        self.memory[first] = block.address
        self.size, self.places = block.size, places


class Gang:
    """`threads` native threads, pinned one to a CPU where they fill the machine's usable CPUs."""

    def __init__(self, native: Native, threads: int) -> None:
        self.native = native
        self.threads = threads
        self._start()
        _gangs.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._arena = Arena()
        self._spares: SimpleQueue[Spare] = SimpleQueue()
        for _ in range(max(cpu.machine().threads, 1)):
            self._spares.put(Spare())
        self._memory = words(GangLayout.size(self.threads) // 8)
        self._memory[GangLayout.THREADS // 8] = self.threads
        self._memory[GangLayout.SPIN // 8] = SPIN_CYCLES
        self.address = address(self._memory)
        first = GangLayout.PASSED // 8
        self._passed = self._memory[first::8][: self.threads]
        self._scratch = [Block(SCRATCH, huge=False) for _ in range(self.threads)]
        self._members = [words(Member.SIZE // 8) for _ in range(self.threads)]
        self._handles: list[ctypes.c_ulong] = []
        self._stopped = False
        self._started = False

    def start(self) -> None:
        """Create the threads; called before the first submission, and again after a fork."""
        with self._lock:
            if self._started:
                return
            libc = ctypes.CDLL(None)
            # Signals belong to Python's main thread.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                for index, (member, scratch) in enumerate(
                    zip(self._members, self._scratch, strict=True)
                ):
                    member[Member.GANG // 8] = self.address
                    member[Member.INDEX // 8] = index
                    member[Member.SCRATCH // 8] = scratch.address
                    handle = ctypes.c_ulong()
                    error = libc.pthread_create(
                        ctypes.byref(handle),
                        None,
                        ctypes.c_void_p(self.native.gang_address),
                        ctypes.c_void_p(address(member)),
                    )
                    if error:
                        raise EngineError(f"cannot create a thread: {os.strerror(error)}")
                    self._handles.append(handle)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._started = True
            self._pin()

    def _pin(self) -> None:
        cpus = cpu.machine().cpus
        if len(cpus) != self.threads:
            return
        for tid, chosen in zip(self.thread_ids(), cpus, strict=True):
            os.sched_setaffinity(tid, {chosen})

    def thread_ids(self) -> list[int]:
        """Kernel thread ids, once every thread has come up."""
        deadline = time.monotonic() + 10
        while any(member[Member.TID // 8] == 0 for member in self._members):
            if time.monotonic() > deadline:
                raise EngineError("the engine's threads did not start within 10 s")
            time.sleep(0.0001)
        return [int(member[Member.TID // 8]) for member in self._members]

    def arena(self, size: int) -> Block:
        """The gang's arena of at least `size` bytes; jobs keep the block they were given."""
        return self._arena.at_least(size)

    def submit(self, job: Job) -> None:
        """Queue a job; waits where 512 jobs are already queued."""
        if not self._started:
            self.start()
        while (ticket := self.native.submit(self.address, job.address, 0, 0)) < 0:
            time.sleep(0.0005)
        job.ticket = ticket

    @property
    def position(self) -> int:
        """How many jobs its threads have left behind, summed over the threads."""
        return int(self._passed.sum())

    def passed(self, job: Job) -> bool:
        """Whether no thread will look at the job again."""
        return bool(self._passed.min() > job.ticket)

    def run(self, job: Job) -> int:
        """Run a job to its end without the GIL; returns its status."""
        self.submit(job)
        return int(self.native.wait(job.address, None, _CALLER_SPIN, 0))

    def run_inline(self, program: Words, arena: int, arrays: Sequence[Array]) -> int:
        """Run a program (its memory, see `engine.runtime.layout.Program`) on the calling thread.

        `arena` is the bytes that it needs, `arrays` hold the weights, inputs and outputs. As many
        callers run at once as there are usable CPUs, others wait. Returns the program's status.
        """
        spare = self._spares.get()
        try:
            if spare.size < arena or spare.places < len(arrays):
                spare.grow(arena, len(arrays))
            return self.native.inline(program, spare.memory, *arrays)
        finally:
            self._spares.put(spare)

    def stop(self) -> None:
        """Let the threads end and wait for them; the job that runs is finished first."""
        with self._lock:
            if not self._started or self._stopped:
                return
            self._stopped = True
            self.native.stop(self.address, None, 0, 0)
            libc = ctypes.CDLL(None)
            for handle in self._handles:
                libc.pthread_join(handle, None)


_gangs: weakref.WeakSet[Gang] = weakref.WeakSet()


def _stop_all() -> None:
    for gang in list(_gangs):
        gang.stop()


def _after_fork() -> None:
    # The child has none of the threads: every gang begins afresh at its next job.
    for gang in list(_gangs):
        gang._start()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork)


def usable(threads: int | None) -> int:
    """Number of threads to use: `threads`, or what affinity and control groups allow."""
    if threads is None:
        return cpu.machine().threads
    if threads < 1:
        raise EngineError(f"threads must be at least 1, got {threads}")
    return threads
