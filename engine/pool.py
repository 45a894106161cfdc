"""What sessions share: the compiler, the stores on disk, the gangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.codegen.compiler import Compiler
from engine.codegen.store import CodeStore
from engine.codegen.target import Target, select
from engine.errors import EngineError
from engine.plan.binding import BIND
from engine.plan.prepared import Prepared
from engine.plan.store import PlanStore
from engine.runtime.gang import Gang, Native, usable

if TYPE_CHECKING:
    from engine.refiner import Refiner


class Pool:
    """What sessions of one instruction set and cache folder share: compiler, stores, gangs."""

    _pools: dict[tuple[str, Path | None], Pool] = {}  # noqa: RUF012 - one registry per process
    _lock = threading.Lock()

    def __init__(self, target: Target, folder: Path | None) -> None:
        self.compiler = Compiler(target, CodeStore(folder), usable(None))
        self.plans = PlanStore(folder)
        self._folder = folder
        self.gangs: dict[int, Gang] = {}

    @classmethod
    def of(cls, isa: str | None, folder: Path | None) -> Pool:
        """The pool for an instruction set and a cache folder."""
        target = select(isa)
        with cls._lock:
            key = (target.name, folder)
            if key not in cls._pools:
                cls._pools[key] = cls(target, folder)
            return cls._pools[key]

    @cached_property
    def refiner(self) -> Refiner:
        """What measures schedules in idle time; made by the first model that asks for it."""
        from engine.refined import RefinedStore
        from engine.refiner import Refiner

        return Refiner(RefinedStore(self._folder), self.compiler.target)

    @cached_property
    def native(self) -> Native:
        """The runtime's own kernels; compiled at first use."""
        return Native(self.compiler)

    def start(self) -> None:
        """Compile the runtime's own kernels; what goes wrong is told when they are used."""
        with suppress(EngineError, OSError):
            _ = self.native
            self.compiler.functions([BIND])

    def gang(self, threads: int) -> Gang:
        """The gang of `threads` threads."""
        with self._lock:
            if threads not in self.gangs:
                self.gangs[threads] = Gang(self.native, threads)
            return self.gangs[threads]


def link(
    prepared: Prepared, compiler: Compiler, report: Callable[[int, int], None] | None = None
) -> None:
    """Compile what is missing and give the programs the addresses of their kernels."""
    programs = prepared.programs()
    addresses = compiler.functions(
        (spec for program in programs for spec in program.specs()), report
    )
    for program in programs:
        program.link(addresses)
