"""Jumps: when they say so, and that they touch nothing where sizes have decided against them."""

from __future__ import annotations

import numpy as np
import pytest

from engine.codegen.abi import JUMP
from engine.codegen.kernel import KernelSpec
from engine.kernels import jumps
from tests.engine.harness import ISAS, run_kernel

ISA = ISAS[-1]


@pytest.mark.parametrize(("condition", "jumps_over"), [(True, False), (False, True)])
def test_a_computed_choice(condition: bool, jumps_over: bool) -> None:
    spec = KernelSpec.of(jumps.CHOOSE.name)
    memory = np.array([condition])
    assert run_kernel(spec, ISA, 1, condition=memory, active=1) == (JUMP if jumps_over else 0)
    assert run_kernel(spec, ISA, 1, condition=memory, active=0) == 0


@pytest.mark.parametrize("limit", [None, "size", "tensor"])
@pytest.mark.parametrize("condition", [None, True, False])
def test_a_loop_is_entered_where_there_is_an_iteration(
    limit: str | None, condition: bool | None
) -> None:
    spec = KernelSpec.of(jumps.ENTER.name, limit=limit, condition=condition is not None)
    for trips in (0, 1, 3) if limit else (1,):
        counter = np.full(1, 77, np.int64)
        arguments = {"counter": counter}
        if limit:
            arguments["trips"] = np.array([trips], np.int64) if limit == "tensor" else trips
        if condition is not None:
            arguments["condition"] = np.array([condition])
        enters = trips > 0 and condition is not False
        assert run_kernel(spec, ISA, 1, active=0, **arguments) == JUMP, "sizes decided against it"
        assert counter[0] == 77, "its memory holds nothing"
        assert run_kernel(spec, ISA, 1, active=1, **arguments) == (0 if enters else JUMP)
        assert counter[0] == 0


def test_iterations_are_counted() -> None:
    spec = KernelSpec.of(jumps.REPEAT.name, limit="size", condition=True)
    counter, going = np.zeros(1, np.int64), np.array([True])
    arguments = {"counter": counter, "trips": 3, "condition": going, "active": 1}
    assert [run_kernel(spec, ISA, 1, **arguments) for _ in range(3)] == [JUMP, JUMP, 0]
    assert counter[0] == 3
    going[0], counter[0] = False, 0
    assert run_kernel(spec, ISA, 1, **arguments) == 0
