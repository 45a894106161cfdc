"""Widths of panels: of those a target has, without needless empty columns."""

from __future__ import annotations

import pytest

from engine.plan.packing import panel_vectors
from tests.engine.harness import ISAS, compiler


@pytest.mark.parametrize("isa", ISAS)
def test_panels_are_as_wide_as_their_matrix_needs(isa: str) -> None:
    target = compiler(isa).target
    lanes = target.lanes()
    for columns in range(1, 200):
        for depth in (None, 8, 4096):
            vectors = panel_vectors(columns, target, depth)
            assert vectors in target.panel_vectors
            assert (vectors - 1) * lanes < max(columns, target.panel_vectors[0] * lanes)


@pytest.mark.parametrize("isa", ISAS)
def test_a_single_row_of_a_small_matrix_keeps_more_sums_under_way(isa: str) -> None:
    """768 columns fill panels of any width, so that nothing but depth tells them apart."""
    target = compiler(isa).target
    small, large = (panel_vectors(768, target, depth) for depth in (16, 768))
    assert small == max(target.panel_vectors)
    assert large <= small
