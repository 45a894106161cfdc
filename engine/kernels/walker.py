"""The native runtime: gang threads walk programs, claim ranges, wait and sleep.

Entry points of the kernel signature ``(ptr, ptr, i64, i64) -> i64``:

- ``gang(member, -, -, -)``: body of a gang's thread; returns when the gang is stopped.
- ``submit(gang, job, -, -)``: zeroes the job's counters and publishes it; its ticket, or -1 where
  the queue is full.
- ``wait(job, -, spin, -)``: until the job is finished; spins at most `spin` cycles, then sleeps.
- ``inline(job, scratch, -, -)``: runs the job on the caller's thread.
- ``stop(gang, -, -, -)``: lets the gang's threads return.

There are no barriers. Every operation counts its finished items, and an operation that needs the
results of earlier ones waits for their counts. Each thread starts on its own share of the items
(producer and consumer then meet in one core's cache) and afterwards claims what others have not
begun. A descheduled thread therefore holds up nobody unless it sits inside a claimed range, and one
that comes late finds nothing left and passes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import llvmlite.ir as ir
from llvmlite.ir.instructions import StoreAtomicInstr

from engine.codegen.abi import Context, Layout
from engine.codegen.builder import I32, I64, PTR, SIGNATURE, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.runtime.layout import LINE, Gang, Job, Member, Op

_SYSCALLS: Final = {
    "x86_64": {"futex": 202, "gettid": 186},
    "aarch64": {"futex": 98, "gettid": 178},
}
_FUTEX_WAIT: Final = 128
_FUTEX_WAKE: Final = 129
"""FUTEX_WAIT and FUTEX_WAKE with FUTEX_PRIVATE_FLAG."""

_EVERYBODY: Final = 0x7FFFFFFF


class Walker(KernelBuilder):
    """The kernel language with atomics, futex and cycle counting."""

    def read(self, pointer: Val, shift: int, order: str = "acquire", kind: Any = I64) -> Val:
        """Atomic load at a byte offset."""
        at = self.offset(pointer, shift).v
        return Val(self, self.b.load_atomic(at, order, kind.width // 8, typ=kind))

    def publish(self, value: Val, pointer: Val, order: str = "release") -> None:
        """Atomic store; llvmlite's own helper still expects typed pointers."""
        size = value.type.width // 8
        store = StoreAtomicInstr(self.b.block, value.v, pointer.v, order, size)
        self.b._insert(store)

    def fetch_add(self, pointer: Val, value: Val, order: str = "seq_cst") -> Val:
        """Atomic addition; the value before it."""
        return Val(self, self.b.atomic_rmw("add", pointer.v, value.v, order))

    def exchange(self, pointer: Val, value: Val) -> Val:
        """Atomic exchange; the value before it."""
        return Val(self, self.b.atomic_rmw("xchg", pointer.v, value.v, "seq_cst"))

    def replace_if(self, pointer: Val, expected: Val, value: Val) -> Val:
        """Atomic compare and exchange; whether it happened."""
        pair = self.b.cmpxchg(pointer.v, expected.v, value.v, "seq_cst", "seq_cst")
        return Val(self, self.b.extract_value(pair, 1))

    def syscall(self, name: str, *arguments: Val) -> Val:
        """Linux system call through libc."""
        numbers = _SYSCALLS[platform.machine()]
        function = self.module.globals.get("syscall")
        if function is None:
            kind = ir.FunctionType(I64, [I64], var_arg=True)
            function = ir.Function(self.module, kind, "syscall")
        values = [self.const(numbers[name]).v, *(a.v for a in arguments)]
        return Val(self, self.b.call(function, values))

    def futex_wait(self, word: Val, expected: Val) -> None:
        """Sleep while the 32-bit word holds `expected`."""
        null = Val(self, ir.Constant(PTR, None))
        self.syscall("futex", word, self.const(_FUTEX_WAIT), self.convert(expected, I64), null)

    def futex_wake(self, word: Val) -> None:
        """Wake all who sleep on the word."""
        self.syscall("futex", word, self.const(_FUTEX_WAKE), self.const(_EVERYBODY))

    def relax(self) -> None:
        """Tell the core that this is a spin loop."""
        if platform.machine() == "x86_64":
            self.intrinsic("llvm.x86.sse2.pause", ir.VoidType(), [])
        else:
            kind = ir.FunctionType(ir.VoidType(), [])
            self.b.asm(kind, "yield", "", [], True)

    def cycles(self) -> Val:
        """Time stamp counter."""
        return self.intrinsic("llvm.readcyclecounter", I64, [])

    def spin(self, ready: Callable[[], Val], budget: Val) -> Val:
        """Spin until ``ready()`` or until `budget` cycles have passed; whether it became ready."""
        started = self.cycles()
        state = self.variable(self.const(0), I64)
        with self.while_(lambda: state.get().equals(0)), self.branch(ready()) as arms:
            with arms[0]:
                state.set(1)
            with arms[1]:
                self.relax()
                with self.when(self.cycles() - started > budget):
                    state.set(2)
        return state.get().equals(1)

    @contextmanager
    def forever(self) -> Iterator[None]:
        """Loop without an exit of its own; leave it by `ret`."""
        with self.while_(lambda: Val(self, ir.Constant(ir.IntType(1), 1))):
            yield


def _pointer(k: Walker, base: Val, shift: int) -> Val:
    return k.load(k.offset(base, shift), PTR)


def _word(k: Walker, base: Val, shift: int) -> Val:
    return k.load(k.offset(base, shift), I64)


def _new_context(k: Walker, bases: Val, scratch: Val, thread: Val, threads: Val) -> Val:
    slot = k.stack(ir.ArrayType(I64, Context.SIZE // 8))
    k.store(bases, k.offset(slot, Context.BASES))
    k.store(scratch, k.offset(slot, Context.SCRATCH))
    k.store(thread, k.offset(slot, Context.THREAD))
    k.store(threads, k.offset(slot, Context.THREADS))
    return slot


class _Callee:
    """A kernel's address as llvmlite wants it for an indirect call: with its function type."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        self.type = pointer.type
        self.function_type = SIGNATURE

    def get_reference(self) -> str:
        return str(self.pointer.get_reference())


def _call_kernel(k: Walker, op: Val, parameters: Val, context: Val, begin: Val, end: Val) -> Val:
    function = _pointer(k, op, Op.FUNCTION)
    words = k.offset(parameters, _word(k, op, Op.PARAMETERS))
    arguments = [words.v, context.v, begin.v, end.v]
    return Val(k, k.b.call(_Callee(function.v), arguments))


def _inline(k: Walker) -> None:
    job, scratch = k.words, k.context
    context = _new_context(k, _pointer(k, job, Job.BASES), scratch, k.const(0), k.const(1))
    ops, parameters = _pointer(k, job, Job.OPS), _pointer(k, job, Job.PARAMETERS)
    with k.loop(0, _word(k, job, Job.COUNT)) as i:
        op = k.offset(ops, i * Op.SIZE)
        status = _call_kernel(k, op, parameters, context, k.const(0), _word(k, op, Op.RANGE))
        with k.when(status.differs(0)):
            k.ret(((i + 1) << 8) | status)
    k.ret(0)


def _count_of(k: Walker, job: Val, index: Val, threads: Val) -> Val:
    """Counters of operation `index`: a claim line per thread, then the line of finished items."""
    return k.offset(_pointer(k, job, Job.COUNTERS), index * (threads + 1) * LINE)


def _await(k: Walker, job: Val, threads: Val, completed: Any, until: Val, spin: Val) -> None:
    """Wait until every operation before `until` is done; `completed` remembers what was seen."""
    ops = _pointer(k, job, Job.OPS)
    with k.while_(lambda: completed.get() < until):
        op = k.offset(ops, completed.get() * Op.SIZE)
        items = _word(k, op, Op.ITEMS)
        done = k.offset(_count_of(k, job, completed.get(), threads), threads * LINE)

        def finished(done: Val = done, items: Val = items) -> Val:
            return k.read(done, 0) >= items

        sleepers, sequence = k.offset(job, Job.SLEEPERS), k.offset(job, Job.SEQUENCE)
        awake = k.variable(k.const(0), I64)
        with k.while_(lambda: awake.get().equals(0)), k.branch(k.spin(finished, spin)) as arms:
            with arms[0]:
                awake.set(1)
            with arms[1]:
                k.fetch_add(sleepers, k.const(1))
                seen = k.read(sequence, 0, "seq_cst", I32)
                with k.when(k.read(done, 0, "seq_cst") < items):
                    k.futex_wait(sequence, seen)
                k.fetch_add(sleepers, k.const(-1))
        completed.add(_word(k, op, Op.GROUP))


def _finish_items(k: Walker, job: Val, done: Val, count: Val, items: Val) -> None:
    """Count finished items; whoever completes the operation wakes those who sleep for it."""
    before = k.fetch_add(done, count)
    with k.when((before + count).equals(items)):
        sleeping = k.read(job, Job.SLEEPERS, "seq_cst") > 0
        with k.when(sleeping):
            sequence = k.offset(job, Job.SEQUENCE)
            k.fetch_add(sequence, k.const(1, I32))
            k.futex_wake(sequence)


def _execute(k: Walker, job: Val, first: Val, context: Val, begin: Val, end: Val) -> None:
    """Run items of an operation; a group's later members run whole after the first."""
    ops, parameters = _pointer(k, job, Job.OPS), _pointer(k, job, Job.PARAMETERS)
    status_word = k.offset(job, Job.STATUS)
    group = _word(k, k.offset(ops, first * Op.SIZE), Op.GROUP)
    with k.loop(0, group) as member:
        index = first + member
        op = k.offset(ops, index * Op.SIZE)
        whole = _word(k, op, Op.ITEMS).equals(1) | member.differs(0)
        from_ = k.select(whole, k.const(0), begin)
        to = k.select(whole, _word(k, op, Op.RANGE), end)
        with k.when(k.read(status_word, 0, "monotonic").equals(0)):
            status = _call_kernel(k, op, parameters, context, from_, to)
            with k.when(status.differs(0)):
                k.replace_if(status_word, k.const(0), ((index + 1) << 8) | status)


def _claim(k: Walker, job: Val, index: Val, context: Val, thread: Val, threads: Val) -> None:
    """Work on one operation: first this thread's share of the items, then everybody's."""
    op = k.offset(_pointer(k, job, Job.OPS), index * Op.SIZE)
    items, grain = _word(k, op, Op.ITEMS), _word(k, op, Op.GRAIN)
    counters = _count_of(k, job, index, threads)
    done = k.offset(counters, threads * LINE)
    with k.loop(0, threads) as step:
        share = k.variable(thread + step)
        with k.when(share.get() >= threads):
            share.add(0 - threads)
        low = items * share.get() // threads
        size = items * (share.get() + 1) // threads - low
        counter = k.offset(counters, share.get() * LINE)
        more = k.variable(k.read(counter, 0, "monotonic") < size)
        with k.while_(more.get):
            begin = k.fetch_add(counter, grain)
            with k.branch(begin < size) as (then, otherwise):
                with then:
                    end = k.minimum(begin + grain, size)
                    _execute(k, job, index, context, low + begin, low + end)
                    _finish_items(k, job, done, end - begin, items)
                with otherwise:
                    more.set(0)


def _run(k: Walker, gang: Val, job: Val, thread: Val, scratch: Val) -> None:
    """One thread's way through a job."""
    threads, spin = _word(k, gang, Gang.THREADS), _word(k, gang, Gang.SPIN)
    context = _new_context(k, _pointer(k, job, Job.BASES), scratch, thread, threads)
    ops, count = _pointer(k, job, Job.OPS), _word(k, job, Job.COUNT)
    completed, index = k.variable(k.const(0)), k.variable(k.const(0))
    with k.while_(lambda: index.get() < count):
        op = k.offset(ops, index.get() * Op.SIZE)
        _await(k, job, threads, completed, _word(k, op, Op.WAIT), spin)
        _claim(k, job, index.get(), context, thread, threads)
        index.add(_word(k, op, Op.GROUP))
    _await(k, job, threads, completed, count, spin)
    finished = k.offset(job, Job.FINISHED)
    with k.when(k.read(finished, 0, "seq_cst", I32).differs(1)):
        before = k.exchange(finished, k.const(1, I32))
        with k.when(before.equals(2)):
            k.futex_wake(finished)
        notify = _word(k, job, Job.NOTIFY)
        with k.when((before.differs(1)) & (notify >= 0)):
            _notify(k, notify)


def _notify(k: Walker, descriptor: Val) -> None:
    """Add one to the eventfd that an asyncio loop watches."""
    one = k.stack(I64)
    k.store(k.const(1), one)
    function = k.module.globals.get("write")
    if function is None:
        function = ir.Function(k.module, ir.FunctionType(I64, [I32, PTR, I64]), "write")
    k.b.call(function, [k.convert(descriptor, I32).v, one.v, I64(8)])


def _gang(k: Walker) -> None:
    member = k.words
    gang, thread = _pointer(k, member, Member.GANG), _word(k, member, Member.INDEX)
    scratch = _pointer(k, member, Member.SCRATCH)
    passed = k.offset(gang, thread * LINE + Gang.PASSED)
    spin = _word(k, gang, Gang.SPIN)
    seen = k.variable(k.read(passed, 0))
    k.publish(k.syscall("gettid"), k.offset(member, Member.TID))
    sleepers = k.offset(gang, Gang.SLEEPERS)
    with k.forever():

        def called() -> Val:
            return (k.read(gang, Gang.HEAD) > seen.get()) | k.read(gang, Gang.STOP).differs(0)

        with k.while_(lambda: called().equals(0)), k.when(k.spin(called, spin).equals(0)):
            k.fetch_add(sleepers, k.const(1))
            head = k.read(gang, Gang.HEAD, "seq_cst", I32)
            with k.when(called().equals(0)):
                k.futex_wait(gang, head)
            k.fetch_add(sleepers, k.const(-1))
        with k.when(k.read(gang, Gang.STOP).differs(0)):
            k.ret(0)
        job = _pointer(k, k.offset(gang, seen.get() % Gang.SLOTS * 8), Gang.RING)
        _run(k, gang, job, thread, scratch)
        seen.add(1)
        k.publish(seen.get(), passed)


def _wake_gang(k: Walker, gang: Val) -> None:
    with k.when(k.read(gang, Gang.SLEEPERS, "seq_cst") > 0):
        k.futex_wake(gang)


def _submit(k: Walker) -> None:
    gang, job = k.words, k.context
    threads = _word(k, gang, Gang.THREADS)
    size = _word(k, job, Job.COUNT) * (threads + 1) * LINE
    counters = _pointer(k, job, Job.COUNTERS)
    fill = [counters, k.const(0, ir.IntType(8)), size, Val(k, ir.Constant(ir.IntType(1), 0))]
    k.intrinsic("llvm.memset.p0.i64", ir.VoidType(), fill)
    k.publish(k.const(0), k.offset(job, Job.STATUS), "monotonic")
    k.publish(k.const(0, I32), k.offset(job, Job.FINISHED), "monotonic")
    lock = k.offset(gang, Gang.LOCK)
    with k.while_(lambda: k.exchange(lock, k.const(1)).differs(0)):
        k.relax()
    head = k.read(gang, Gang.HEAD)
    ticket = k.variable(head)
    with k.loop(0, threads) as thread:
        passed = k.read(k.offset(gang, thread * LINE + Gang.PASSED), 0)
        with k.when(head - passed >= Gang.SLOTS):
            ticket.set(-1)
    with k.when(ticket.get() >= 0):
        k.store(job, k.offset(gang, head % Gang.SLOTS * 8 + Gang.RING))
        k.publish(head + 1, gang, "seq_cst")
    k.publish(k.const(0), lock)
    _wake_gang(k, gang)
    k.ret(ticket.get())


def _wait(k: Walker) -> None:
    job, budget = k.words, k.begin
    finished = k.offset(job, Job.FINISHED)

    def done() -> Val:
        return k.read(finished, 0, "acquire", I32).equals(1)

    with k.when(k.spin(done, budget).equals(0)), k.while_(lambda: done().equals(0)):
        k.replace_if(finished, k.const(0, I32), k.const(2, I32))
        k.futex_wait(finished, k.const(2, I32))
    k.ret(k.read(job, Job.STATUS))


def _stop(k: Walker) -> None:
    gang = k.words
    k.publish(k.const(1), k.offset(gang, Gang.STOP), "seq_cst")
    k.fetch_add(gang, k.const(1))
    k.futex_wake(gang)
    k.ret(0)


_ENTRIES: Final[dict[str, Callable[[Walker], None]]] = {
    "gang": _gang,
    "submit": _submit,
    "wait": _wait,
    "inline": _inline,
    "stop": _stop,
}


def _build(symbol: str, target: Target, options: Options) -> str:
    k = Walker(symbol, target, Layout())
    _ENTRIES[options["entry"]](k)
    if not k.b.block.is_terminated:
        k.b.unreachable()
    return str(k.module)


WALKER = register(
    Family("walker", "threads of a gang and the run queue", lambda _: Layout(), _build)
)
