"""The native runtime: gang threads walk programs, claim ranges, wait and sleep.

Entry points of the kernel signature ``(ptr, ptr, i64, i64) -> i64``:

- ``gang(member, -, -, -)``: body of a gang's thread; returns when the gang is stopped.
- ``submit(gang, job, -, -)``: zeroes the job's counters and publishes it; its ticket, or -1 where
  the queue is full.
- ``wait(job, -, spin, -)``: until the job is finished; spins at most `spin` cycles, then sleeps.
- ``inline(-, arguments, count, -)``: a built-in function of Python. Runs a program on its caller's
  thread; returns its status. The arguments are arrays: the program, the memory of a spare, and
  those whose addresses become the bases from 1 on.
- ``stop(gang, -, -, -)``: lets the gang's threads return.

How threads share the operations of a job: `engine.kernels.operations`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import llvmlite.ir as ir

from engine.codegen.abi import Layout
from engine.codegen.builder import I32, PTR, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.atomics import Walker
from engine.kernels.operations import run, run_inline
from engine.kernels.python_call import PythonCall
from engine.runtime.layout import LINE, Gang, Job, Member, Spare


def _gang(k: Walker) -> None:
    member = k.words
    gang, thread = k.pointer_at(member, Member.GANG), k.word_at(member, Member.INDEX)
    scratch = k.pointer_at(member, Member.SCRATCH)
    passed = k.offset(gang, thread * LINE + Gang.PASSED)
    spin = k.word_at(gang, Gang.SPIN)
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
        job = k.pointer_at(k.offset(gang, seen.get() % Gang.SLOTS * 8), Gang.RING)
        run(k, gang, job, thread, scratch)
        seen.add(1)
        k.publish(seen.get(), passed)


def _wake_gang(k: Walker, gang: Val) -> None:
    with k.when(k.read(gang, Gang.SLEEPERS, "seq_cst") > 0):
        k.futex_wake(gang)


def _submit(k: Walker) -> None:
    gang, job = k.words, k.context
    threads = k.word_at(gang, Gang.THREADS)
    size = k.word_at(job, Job.COUNT) * (threads + 1) * LINE
    counters = k.pointer_at(job, Job.COUNTERS)
    fill = [counters, k.const(0, ir.IntType(8)), size, Val(k, ir.Constant(ir.IntType(1), 0))]
    k.intrinsic("llvm.memset.p0.i64", ir.VoidType(), fill)
    k.publish(k.const(0), k.offset(job, Job.STATUS), "monotonic")
    k.publish(k.const(0, I32), k.offset(job, Job.FINISHED), "monotonic")
    k.publish(k.const(0), k.offset(job, Job.FRONTIER), "monotonic")
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


def _inline(k: Walker, header: int) -> None:
    call = PythonCall(k, header)
    walk = k.local_function(f"{k.function.name}_walk", [PTR, PTR])
    with k.within(walk) as (program, memory):
        run_inline(k, program, memory)
    program, memory = call.address(0), call.address(1)
    with k.loop(2, call.count) as place:
        k.store(call.address(place), k.offset(memory, place * 8 + (Spare.BASES - 8)))
    call.ret(call.without_gil(walk, [program, memory]))


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
    "stop": _stop,
}


def _build(symbol: str, target: Target, options: Options) -> str:
    k = Walker(symbol, target, Layout())
    if options["entry"] == "inline":
        _inline(k, options["header"])
    else:
        _ENTRIES[options["entry"]](k)
    if not k.b.block.is_terminated:
        k.b.unreachable()
    return str(k.module)


WALKER = register(
    Family("walker", "threads of a gang and the run queue", lambda _: Layout(), _build)
)
