"""Kernels as data: a family generates, a spec names one member of it.

Every kernel the engine can use stands in the registry of families; tests, benchmarks and `explain`
walk it. A `KernelSpec` is hashable and JSON-serialisable: it crosses to the compiling process, and
with the digest of the generators' sources it is the key of the code store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Final

from engine.codegen.abi import Layout
from engine.codegen.target import Target

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A generator of kernels.

    `layout` gives the parameter block for a set of options. `build` returns the LLVM IR text of a
    module that defines one function called `symbol` of the kernel signature.
    """

    name: str
    summary: str
    layout: Callable[[Options], Layout]
    build: Callable[[str, Target, Options], str]


@dataclass(frozen=True)
class KernelSpec:
    """One kernel: family and options, the options as canonical JSON."""

    family: str
    canonical: str

    @classmethod
    def of(cls, family: str, **options: Any) -> KernelSpec:
        """Spec from keyword options made of strings, numbers, booleans, lists and None."""
        return cls(family, json.dumps(options, sort_keys=True, separators=(",", ":")))

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options as Python values (lists, not tuples)."""
        decoded: dict[str, Any] = json.loads(self.canonical)
        return decoded

    @cached_property
    def symbol(self) -> str:
        """Name of the kernel's function: the family and a digest of the options."""
        digest = hashlib.sha256(self.canonical.encode()).hexdigest()[:16]
        return f"{self.family}_{digest}"

    @cached_property
    def layout(self) -> Layout:
        """The parameter block."""
        return family(self.family).layout(self.options)

    def build(self, target: Target) -> str:
        """LLVM IR text for `target`."""
        return family(self.family).build(self.symbol, target, self.options)


_FAMILIES: Final[dict[str, Family]] = {}

_MODULES: Final = (
    "engine.kernels.attention",
    "engine.kernels.bind",
    "engine.kernels.cache",
    "engine.kernels.channel",
    "engine.kernels.copy",
    "engine.kernels.deformed",
    "engine.kernels.depthwise",
    "engine.kernels.determinant",
    "engine.kernels.distinct",
    "engine.kernels.dot",
    "engine.kernels.elementwise",
    "engine.kernels.fourier",
    "engine.kernels.fourier_tables",
    "engine.kernels.gather",
    "engine.kernels.grid",
    "engine.kernels.halo",
    "engine.kernels.heads",
    "engine.kernels.jumps",
    "engine.kernels.nonzero",
    "engine.kernels.normalize",
    "engine.kernels.pack",
    "engine.kernels.lines",
    "engine.kernels.probe",
    "engine.kernels.planes",
    "engine.kernels.pool",
    "engine.kernels.product",
    "engine.kernels.recurrent",
    "engine.kernels.recurrent_start",
    "engine.kernels.reduce",
    "engine.kernels.regions",
    "engine.kernels.resize",
    "engine.kernels.scatter",
    "engine.kernels.selection",
    "engine.kernels.softmax",
    "engine.kernels.suppression",
    "engine.kernels.transpose",
    "engine.kernels.trees",
    "engine.kernels.walker",
    "engine.kernels.windows",
    "engine.kernels.winograd",
    "engine.kernels.words",
)


def register(entry: Family) -> Family:
    """Add a family to the registry; its name must be new."""
    if entry.name in _FAMILIES:
        raise ValueError(f"kernel family {entry.name!r} is registered twice")
    _FAMILIES[entry.name] = entry
    return entry


def families() -> dict[str, Family]:
    """Every kernel family by name."""
    for module in _MODULES:
        import_module(module)
    return _FAMILIES


def family(name: str) -> Family:
    """The family called `name`."""
    if name not in _FAMILIES:
        families()
    return _FAMILIES[name]
