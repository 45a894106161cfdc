"""Determinants: Gaussian elimination with partial pivoting (G. H. Golub and C. F. Van Loan, Matrix
Computations, section 3.4). A work item is one matrix, eliminated in a copy of its own."""

from __future__ import annotations

from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.builder import I64, KernelBuilder, Val
from engine.codegen.kernel import Family, Options, register
from engine.codegen.target import Target
from engine.kernels.runs import copy_run
from engine.kernels.strips import Lanes, Part

DTYPES: Final = ("float32", "float64")


def _layout(options: Options) -> Layout:
    return Layout.of("x y work", "size")


def _build(symbol: str, target: Target, options: Options) -> str:
    k = KernelBuilder(symbol, target, _layout(options))
    x, y, work, size = k.tensor("x"), k.tensor("y"), k.tensor("work"), k.int("size")
    lanes = Lanes(k, options["dtype"])
    bytes_, kind = lanes.itemsize, lanes.scalar
    row = size * bytes_
    with k.loop(k.begin, k.end) as item:
        matrix = work + item * size * row
        copy_run(k, matrix, x + item * size * row, size * row)
        result = k.variable(1.0, kind)
        with k.loop(0, size) as step:
            pivot = k.variable(step, I64)
            largest = k.variable(-1.0, kind)
            with k.loop(step, size) as i:
                value = k.unary("fabs", k.load(matrix + i * row + step * bytes_, kind))
                wins = value > largest.get()
                largest.set(k.select(wins, value, largest.get()))
                pivot.set(k.select(wins, i, pivot.get()))
            own, chosen = matrix + step * row, matrix + pivot.get() * row

            def swap(part: Part, own: Val = own, chosen: Val = chosen) -> None:
                for vector in range(part.vectors):
                    a, b = part.load(own, vector), part.load(chosen, vector)
                    part.store(b, own, vector)
                    part.store(a, chosen, vector)

            with k.when(pivot.get().differs(step)):
                lanes.sweep(size, 1, swap)
                result.set(-result.get())
            lead = k.load(own + step * bytes_, kind)
            result.set(result.get() * lead)
            with k.when(lead.differs(0.0)), k.loop(step + 1, size) as i:
                line = matrix + i * row
                factor = lanes.splat(k.load(line + step * bytes_, kind) / lead)

                def eliminate(
                    part: Part, own: Val = own, line: Val = line, factor: Val = factor
                ) -> None:
                    value = part.load(line) - factor * part.load(own)
                    part.store(value, line)

                lanes.sweep(size, 1, eliminate, step + 1)
        k.store(result.get(), y + item * bytes_)
    k.ret()
    return str(k.module)


DETERMINANT: Final = register(Family("determinant", "determinants of matrices", _layout, _build))
