"""The language of the runtime's own kernels: atomics, futex and cycle counting."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import llvmlite.ir as ir
from llvmlite.ir.instructions import StoreAtomicInstr

from engine.codegen.builder import I64, PTR, KernelBuilder, Val

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

    def exchange_if(self, pointer: Val, expected: Val, value: Val) -> tuple[Val, Val]:
        """Atomic compare and exchange; what was there before, and whether it was `expected`."""
        pair = self.b.cmpxchg(pointer.v, expected.v, value.v, "seq_cst", "seq_cst")
        return Val(self, self.b.extract_value(pair, 0)), Val(self, self.b.extract_value(pair, 1))

    def replace_if(self, pointer: Val, expected: Val, value: Val) -> Val:
        """Atomic compare and exchange; whether it happened."""
        return self.exchange_if(pointer, expected, value)[1]

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

    def pointer_at(self, base: Val, shift: int) -> Val:
        """Pointer that stands at a byte offset."""
        return self.load(self.offset(base, shift), PTR)

    def word_at(self, base: Val, shift: int) -> Val:
        """Word that stands at a byte offset."""
        return self.load(self.offset(base, shift), I64)
