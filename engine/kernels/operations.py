"""How threads share the operations of a program, and how a program jumps.

There are no barriers. Every operation counts its finished items, and an operation that needs the
results of earlier ones waits for their counts. Each thread starts on its own share of the items
(producer and consumer then meet in one core's cache) and afterwards claims what others have not
begun. A descheduled thread therefore holds up nobody unless it sits inside a claimed range, and one
that comes late finds nothing left and passes.

A jump waits for all operations before it. The thread that runs its kernel publishes where the
program goes on: the frontier, which begins the next *epoch*. Counters are never reset. They hold
the epoch that they count in, and count from zero where that lies in the past; where it lies in the
future, the thread is late: what it looks for was done, and it goes on to the frontier. So a loop,
too, waits for nobody who is not needed, and no thread works in an epoch that is over.
"""

from __future__ import annotations

from typing import Any, Final

import llvmlite.ir as ir

from engine.codegen.abi import JUMP, Context, Status
from engine.codegen.builder import I32, I64, PTR, SIGNATURE, Val, Variable
from engine.kernels.atomics import Walker
from engine.runtime.layout import LAST_EPOCH, LINE, POSITION_BITS, Gang, Job, Op, Program, Spare

_START_BITS: Final = 32
"""Bits of the frontier that hold an operation; those above hold the epoch."""


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
    function = k.pointer_at(op, Op.FUNCTION)
    words = k.offset(parameters, k.word_at(op, Op.PARAMETERS))
    arguments = [words.v, context.v, begin.v, end.v]
    return Val(k, k.b.call(_Callee(function.v), arguments))


def run_inline(k: Walker, program: Val, memory: Val) -> None:
    """Return after every operation was done in turn on the calling thread, with a spare's memory.

    Leaves in its frontier with which operation a jump that ended the program went on, else 0.
    """
    bases, scratch = k.offset(memory, Spare.BASES), k.pointer_at(memory, Spare.SCRATCH)
    context = _new_context(k, bases, scratch, k.const(0), k.const(1))
    ops = k.pointer_at(program, Program.OPS)
    parameters = k.pointer_at(program, Program.PARAMETERS)
    frontier = k.offset(memory, Spare.FRONTIER)
    k.store(k.const(0), frontier)
    count = k.word_at(program, Program.COUNT)
    index, jumps = k.variable(k.const(0)), k.variable(k.const(0))
    with k.while_(lambda: index.get() < count):
        op = k.offset(ops, index.get() * Op.SIZE)
        status = _call_kernel(k, op, parameters, context, k.const(0), k.word_at(op, Op.RANGE))
        index.add(1)
        with k.when(status.differs(0)):
            with k.when(status.differs(JUMP)):
                k.ret((index.get() << 8) | status)
            jumps.add(1)
            with k.when(jumps.get() >= LAST_EPOCH):
                k.ret((index.get() << 8) | Status.TOO_MANY_JUMPS)
            index.set(k.word_at(op, Op.TARGET) - 1)
            k.store(index.get(), frontier)
    k.ret(0)


def _count_of(k: Walker, job: Val, index: Val, threads: Val) -> Val:
    """Counters of operation `index`: a claim line per thread, then the line of finished items."""
    return k.offset(k.pointer_at(job, Job.COUNTERS), index * (threads + 1) * LINE)


def _sleep_until(k: Walker, job: Val, word: Val, least: Val, spin: Val) -> None:
    """Wait until `word` is at least `least`: spin for a while, then sleep."""
    sleepers, sequence = k.offset(job, Job.SLEEPERS), k.offset(job, Job.SEQUENCE)
    awake = k.variable(k.const(0), I64)

    def reached() -> Val:
        return k.read(word, 0) >= least

    with k.while_(lambda: awake.get().equals(0)), k.branch(k.spin(reached, spin)) as arms:
        with arms[0]:
            awake.set(1)
        with arms[1]:
            k.fetch_add(sleepers, k.const(1))
            seen = k.read(sequence, 0, "seq_cst", I32)
            with k.when(k.read(word, 0, "seq_cst") < least):
                k.futex_wait(sequence, seen)
            k.fetch_add(sleepers, k.const(-1))


def _wake(k: Walker, job: Val) -> None:
    """Wake those who sleep for a counter or the frontier; what they wait for is written."""
    with k.when(k.read(job, Job.SLEEPERS, "seq_cst") > 0):
        sequence = k.offset(job, Job.SEQUENCE)
        k.fetch_add(sequence, k.const(1, I32))
        k.futex_wake(sequence)


def _await(
    k: Walker, job: Val, threads: Val, epoch: Val, completed: Variable, until: Val, spin: Val
) -> None:
    """Wait until every operation before `until` is done; `completed` remembers what was seen."""
    ops = k.pointer_at(job, Job.OPS)
    with k.while_(lambda: completed.get() < until):
        op = k.offset(ops, completed.get() * Op.SIZE)
        done = k.offset(_count_of(k, job, completed.get(), threads), threads * LINE)
        _sleep_until(k, job, done, (epoch << POSITION_BITS) + k.word_at(op, Op.ITEMS), spin)
        completed.add(k.word_at(op, Op.GROUP))


def _finish_items(k: Walker, job: Val, done: Val, epoch: Val, count: Val, items: Val) -> None:
    """Count finished items; whoever completes the operation wakes those who sleep for it."""
    base = epoch << POSITION_BITS
    seen, now = k.variable(k.read(done, 0, "monotonic")), k.variable(k.const(0))
    with k.while_(lambda: now.get().equals(0)):
        sum_ = k.maximum(seen.get(), base) + count
        before, replaced = k.exchange_if(done, seen.get(), sum_)
        seen.set(before)
        now.set(k.select(replaced, sum_, 0))
    with k.when(now.get().equals(base + items)):
        _wake(k, job)


def _execute(
    k: Walker, job: Val, first: Val, context: Val, begin: Val, end: Val, following: Variable
) -> None:
    """Run items of an operation; a group's later members run whole after the first.

    Where the group ends with a jump, `following` becomes the operation with which to go on.
    """
    ops, parameters = k.pointer_at(job, Job.OPS), k.pointer_at(job, Job.PARAMETERS)
    status_word = k.offset(job, Job.STATUS)
    group = k.word_at(k.offset(ops, first * Op.SIZE), Op.GROUP)
    with k.loop(0, group) as member:
        index = first + member
        op = k.offset(ops, index * Op.SIZE)
        whole = k.word_at(op, Op.ITEMS).equals(1) | member.differs(0)
        from_ = k.select(whole, k.const(0), begin)
        to = k.select(whole, k.word_at(op, Op.RANGE), end)
        target = k.word_at(op, Op.TARGET)
        with k.when(target.differs(0)):
            following.set(index + 1)
        with k.when(k.read(status_word, 0, "monotonic").equals(0)):
            status = _call_kernel(k, op, parameters, context, from_, to)
            with k.when(status.differs(0)), k.branch(status.equals(JUMP)) as (jumps, fails):
                with jumps:
                    following.set(target - 1)
                with fails:
                    k.replace_if(status_word, k.const(0), ((index + 1) << 8) | status)


def _advance(k: Walker, job: Val, epoch: Val, last: Val, following: Val) -> None:
    """Publish the frontier behind a jump, operation `last`; a failed run ends there."""
    status_word = k.offset(job, Job.STATUS)
    with k.when(epoch + 1 >= LAST_EPOCH):
        k.replace_if(status_word, k.const(0), ((last + 1) << 8) | Status.TOO_MANY_JUMPS)
    failed = k.read(status_word, 0, "monotonic").differs(0)
    start = k.select(failed, k.word_at(job, Job.COUNT), following)
    k.publish(((epoch + 1) << _START_BITS) | start, k.offset(job, Job.FRONTIER), "seq_cst")
    _wake(k, job)


def _claim(
    k: Walker, job: Val, index: Val, epoch: Val, context: Val, thread: Val, threads: Val
) -> None:
    """Work on one operation: first this thread's share of the items, then everybody's."""
    op = k.offset(k.pointer_at(job, Job.OPS), index * Op.SIZE)
    items, grain = k.word_at(op, Op.ITEMS), k.word_at(op, Op.GRAIN)
    counters = _count_of(k, job, index, threads)
    done = k.offset(counters, threads * LINE)
    base = epoch << POSITION_BITS
    following = k.variable(k.const(-1))
    with k.loop(0, threads) as step:
        share = k.variable(thread + step)
        with k.when(share.get() >= threads):
            share.add(0 - threads)
        low = items * share.get() // threads
        size = items * (share.get() + 1) // threads - low
        counter = k.offset(counters, share.get() * LINE)
        seen, more = k.variable(k.read(counter, 0, "monotonic")), k.variable(k.const(1))
        with k.while_(lambda: more.get().differs(0)):
            # Negative where the counter is of an earlier epoch, beyond `size` where of a later one.
            begin = k.maximum(seen.get() - base, 0)
            with k.branch(begin < size) as (then, otherwise):
                with then:
                    end = k.minimum(begin + grain, size)
                    before, claimed = k.exchange_if(counter, seen.get(), base + end)
                    seen.set(k.select(claimed, base + end, before))
                    with k.when(claimed):
                        _execute(k, job, index, context, low + begin, low + end, following)
                        _finish_items(k, job, done, epoch, end - begin, items)
                with otherwise:
                    more.set(0)
    with k.when(following.get() >= 0):
        _advance(k, job, epoch, index + k.word_at(op, Op.GROUP) - 1, following.get())


def run(k: Walker, gang: Val, job: Val, thread: Val, scratch: Val) -> None:
    """One thread's way through a job."""
    threads, spin = k.word_at(gang, Gang.THREADS), k.word_at(gang, Gang.SPIN)
    context = _new_context(k, k.pointer_at(job, Job.BASES), scratch, thread, threads)
    ops, count = k.pointer_at(job, Job.OPS), k.word_at(job, Job.COUNT)
    frontier = k.offset(job, Job.FRONTIER)
    epoch, completed, index = (k.variable(k.const(0)) for _ in range(3))
    with k.while_(lambda: index.get() < count):
        op = k.offset(ops, index.get() * Op.SIZE)
        _await(k, job, threads, epoch.get(), completed, k.word_at(op, Op.WAIT), spin)
        _claim(k, job, index.get(), epoch.get(), context, thread, threads)
        index.add(k.word_at(op, Op.GROUP))
        last = k.offset(ops, (index.get() - 1) * Op.SIZE)
        with k.when(k.word_at(last, Op.TARGET).differs(0)):
            _sleep_until(k, job, frontier, (epoch.get() + 1) << _START_BITS, spin)
            now = k.read(frontier, 0)
            epoch.set(now >> _START_BITS)
            index.set(now & ((1 << _START_BITS) - 1))
            completed.set(index.get())
    _await(k, job, threads, epoch.get(), completed, count, spin)
    finished = k.offset(job, Job.FINISHED)
    with k.when(k.read(finished, 0, "seq_cst", I32).differs(1)):
        before = k.exchange(finished, k.const(1, I32))
        with k.when(before.equals(2)):
            k.futex_wake(finished)
        notify = k.word_at(job, Job.NOTIFY)
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
