"""Kernels on demand: from the code store, else compiled in parallel processes, then linked.

`Compiler.functions` is the only way to machine code. After a model is loaded nothing asks for it:
tests set `Compiler.sealed` and fail on any entry.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm

import engine
from engine.codegen.abi import ABI_VERSION
from engine.codegen.emit import emit, initialise
from engine.codegen.kernel import KernelSpec
from engine.codegen.store import CodeStore
from engine.codegen.target import Target
from engine.errors import CompileError

Report = Callable[[int, int], None]
"""Called with (kernels done, kernels in all)."""

_ALONE: Final = 2
"""Up to this many kernels are compiled in this process, unless other processes are at hand: to
start one costs about as much."""


@cache
def sources_digest() -> str:
    """Digest of every source file that decides generated code."""
    digest = hashlib.sha256()
    root = Path(engine.__file__).parent
    for folder in ("codegen", "kernels"):
        for path in sorted((root / folder).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Compiler:
    """Gives the addresses of kernels for one target; thread-safe, each kernel made once."""

    def __init__(self, target: Target, store: CodeStore, workers: int = 1) -> None:
        initialise()
        self.target = target
        self.store = store
        self.workers = max(1, workers)
        self.sealed = False
        self.compiled = 0
        self.seconds = 0.0
        self._addresses: dict[KernelSpec, int] = {}
        self._trackers: list[Any] = []
        # JITLink places all sections of an object together. RuntimeDyld looks for room for each
        # on its own, and aborts where code and constants end up more than 2 GiB apart.
        self._jit = llvm.create_lljit_compiler(use_jit_link=True)
        self._lock = threading.Lock()
        self._resting: list[_Worker] = []

    def key(self, spec: KernelSpec) -> str:
        """Everything that decides the kernel's bytes, as text."""
        target = self.target
        parts = (
            spec.family,
            spec.canonical,
            sources_digest(),
            f"{target.name} {target.triple} {target.cpu} {target.features}",
            f"llvm {'.'.join(map(str, llvm.llvm_version_info))}",
            f"abi {ABI_VERSION}",
        )
        return "\n".join(parts)

    def functions(
        self, specs: Iterable[KernelSpec], report: Report | None = None
    ) -> dict[KernelSpec, int]:
        """Address of each kernel, compiling what neither this process nor the store has.

        Raises CompileError where a kernel cannot be compiled, or where the compiler is sealed.
        """
        wanted = list(dict.fromkeys(specs))
        with self._lock:
            fresh = [spec for spec in wanted if spec not in self._addresses]
            if fresh and self.sealed:
                raise CompileError(f"kernel {fresh[0].symbol} was asked for after loading")
            missing: list[KernelSpec] = []
            for spec in fresh:
                code = self.store.get(self.key(spec))
                if code is None:
                    missing.append(spec)
                else:
                    self._link(spec, code)
            if missing:
                self._compile(missing, report)
            return {spec: self._addresses[spec] for spec in wanted}

    def _compile(self, specs: list[KernelSpec], report: Report | None) -> None:
        started = time.perf_counter()
        done = 0

        def finish(spec: KernelSpec, code: bytes) -> None:
            nonlocal done
            self.store.put(self.key(spec), code)
            self._link(spec, code)
            done += 1
            if report is not None:
                report(done, len(specs))

        if report is not None:
            report(0, len(specs))
        alone = len(specs) <= _ALONE and not self._resting
        if alone or self.workers == 1:
            for spec in specs:
                finish(spec, emit(spec, self.target))
        else:
            self._farm(specs, finish)
        self.compiled += len(specs)
        self.seconds += time.perf_counter() - started

    def _farm(self, specs: list[KernelSpec], finish: Callable[[KernelSpec, bytes], None]) -> None:
        """Share `specs` among worker processes; each of our threads feeds one of them."""
        queue = list(reversed(specs))
        lock = threading.Lock()
        failures: list[BaseException] = []

        def feed() -> None:
            worker = None
            try:
                worker = self._worker()
                while not failures:
                    with lock:
                        if not queue:
                            break
                        spec = queue.pop()
                    code = worker.compile(spec)
                    with lock:
                        finish(spec, code)
            except BaseException as error:
                failures.append(error)
            if worker is not None:
                self._resting.append(worker)

        threads = [threading.Thread(target=feed) for _ in range(min(self.workers, len(specs)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _worker(self) -> _Worker:
        """A compiling process: one that rests, or a new one."""
        while self._resting:
            worker = self._resting.pop()
            if worker.is_alive:
                return worker
            worker.close()
        return _Worker(self.target)

    def release(self) -> None:
        """End the processes that rest between compilations."""
        with self._lock:
            while self._resting:
                self._resting.pop().close()

    def _link(self, spec: KernelSpec, code: bytes) -> None:
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        builder.export_symbol(spec.symbol)
        tracker = builder.link(self._jit, f"{spec.symbol}.{len(self._trackers)}")
        self._trackers.append(tracker)
        self._addresses[spec] = tracker[spec.symbol]

    def call(self, spec: KernelSpec) -> Callable[..., int]:
        """The kernel as a Python callable of (words, context, begin, end); for tests."""
        address = self.functions([spec])[spec]
        signature = ctypes.CFUNCTYPE(
            ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
        )
        return signature(address)


class _Worker:
    """One compiling process, spoken to through its pipes."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine.codegen.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(engine.__file__).parent.parent,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the process can take requests."""
        return self.process.poll() is None

    def close(self) -> None:
        """Let the process end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def compile(self, spec: KernelSpec) -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"family": spec.family, "canonical": spec.canonical, "isa": self.target.name}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise CompileError(f"the compiling process died on kernel {spec.symbol}")
        answer = json.loads(line)
        if "error" in answer:
            raise CompileError(f"kernel {spec.symbol}: {answer['error']}")
        return base64.b64decode(answer["code"])
