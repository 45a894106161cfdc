"""Registries of functions by operator, filled by importing the files of a package."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Generic, TypeVar

Function = TypeVar("Function")


class Families(Generic[Function]):
    """Functions of one package, each for the operators that it names."""

    def __init__(self, package: str, *files: str) -> None:
        """`files` are the modules of the package that register something."""
        self._modules = tuple(f"{package}.{file}" for file in files)
        self._found: dict[str, Function] = {}

    def of(self, *operators: str) -> Callable[[Function], Function]:
        """Register a function for `operators`."""

        def register(function: Function) -> Function:
            for operator in operators:
                assert operator not in self._found, f"second function for {operator}"
                self._found[operator] = function
            return function

        return register

    def all(self) -> dict[str, Function]:
        """Every function by operator name."""
        for module in self._modules:
            import_module(module)
        return self._found
