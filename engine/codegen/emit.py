"""From LLVM IR text to object code, inside one process."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from engine.codegen.kernel import KernelSpec
from engine.codegen.target import Target
from engine.errors import CompileError

_lock = threading.Lock()


@cache
def initialise() -> None:
    """Set up LLVM's native target once per process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


def machine(target: Target) -> Any:
    """LLVM target machine for `target`, made to sit at any address."""
    initialise()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
    )


def optimise(text: str, tm: Any, level: int = 2) -> Any:
    """Parse, verify and optimise IR text; returns the llvmlite module.

    Loops are vectorised by the generators, so LLVM's vectorisers and unroller stay off: they cost
    most of the compile time and undo hand-chosen register tiles.
    """
    module = llvm.parse_assembly(text)
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=level)
    tuning.loop_vectorization = False
    tuning.slp_vectorization = False
    tuning.loop_unrolling = False
    tuning.loop_interleaving = False
    builder = llvm.create_pass_builder(tm, tuning)
    builder.getModulePassManager().run(module, builder)
    return module


def emit(spec: KernelSpec, target: Target) -> bytes:
    """Object code of one kernel.

    Raises CompileError where the generator wrote IR that LLVM refuses.
    """
    text = spec.build(target)
    with _lock:
        tm = machine(target)
        try:
            module = optimise(text, tm)
        except RuntimeError as error:
            raise CompileError(f"kernel {spec.symbol} does not compile: {error}") from error
        code: bytes = tm.emit_object(module)
    return code


def assembly(spec: KernelSpec, target: Target) -> str:
    """Machine code of one kernel as text, to be read by people."""
    with _lock:
        tm = machine(target)
        text: str = tm.emit_assembly(optimise(spec.build(target), tm))
    return text
