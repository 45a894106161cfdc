"""Kernels that Python calls as built-in functions (METH_FASTCALL), on arrays.

Their signature ``(self, arguments, count, -) -> object`` is that of every kernel. An array's
address stands behind the header of its object (NumPy reference, "Python types and C-structures",
`PyArrayObject`); how long that is depends on the interpreter's build: ``object.__basicsize__``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llvmlite.ir as ir

from engine.codegen.builder import I64, PTR, KernelBuilder, Val


class PythonCall:
    """What the kernel that is being emitted was called with."""

    def __init__(self, k: KernelBuilder, header: int) -> None:
        self.k = k
        self.header = header
        self.arguments, self.count = k.context, k.begin

    def address(self, place: Val | int) -> Val:
        """Address of the array that is the argument at `place`."""
        return self.k.load(self.k.offset(self._object(place), self.header), PTR)

    def integers(self, first: int, target: Val) -> None:
        """Store the ints that are the arguments from `first` on as words.

        Returns from the kernel with OverflowError where one has no 64 bits.
        """
        with self.k.loop(first, self.count) as place:
            number = self._python("PyLong_AsLongLong", I64, [self._object(place)])
            self.k.store(number, self.k.offset(target, (place - first) * 8))
        error = self._python("PyErr_Occurred", I64, [])
        with self.k.when(error.differs(0)):
            self.k.ret(0)

    def _object(self, place: Val | int) -> Val:
        return self.k.load(self.k.offset(self.arguments, place * 8), PTR)

    def without_gil(self, function: Any, arguments: Sequence[Val]) -> Val:
        """Result of a local function that runs while other threads may run Python."""
        state = self._python("PyEval_SaveThread", PTR, [])
        result = self.k.call(function, arguments)
        self._python("PyEval_RestoreThread", ir.VoidType(), [state])
        return result

    def ret(self, number: Val) -> None:
        """Return an int."""
        self.k.ret(self._python("PyLong_FromLongLong", I64, [number]))

    def _python(self, name: str, kind: Any, arguments: Sequence[Val]) -> Val:
        """Call of the interpreter, which is linked by name."""
        module = self.k.module
        function = ir.Function(module, ir.FunctionType(kind, [a.type for a in arguments]), name)
        return Val(self.k, self.k.b.call(function, [a.v for a in arguments]))
