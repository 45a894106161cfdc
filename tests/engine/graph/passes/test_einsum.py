"""Einsum of any equation against numpy; its float32 products run on the dot kernel."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph.passes.einsum import parse
from tests.engine.single import Array, Single

CASES = [
    ("ij,jk->ik", ["ij", "jk"]),
    ("bij,bjk", ["bij", "bjk"]),
    ("bhid,bhjd->bhij", ["bhid", "bhjd"]),
    ("ij->ji", ["ij"]),
    ("ij->", ["ij"]),
    ("ii->i", ["ii"]),
    ("i,j->ij", ["i", "j"]),
    ("abc,cd,de->abe", ["abc", "cd", "de"]),
    ("abcd,bdc->a", ["abcd", "bdc"]),
    ("...ij,...jk->...ik", ["bij", "jk"]),
    ("b...,b...->...", ["bij", "bij"]),
    ("iji,j->i", ["iji", "j"]),
    ("ij,kj,k->i", ["ij", "kj", "k"]),
]
SIZES = dict(zip("abcdehijk", (2, 3, 4, 5, 3, 2, 4, 5, 6), strict=True))


@pytest.mark.parametrize(("equation", "labels"), CASES)
def test_equal_to_numpy(equation: str, labels: list[str]) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        f"x{i}": rng.standard_normal([SIZES[label] for label in own]).astype(np.float32)
        for i, own in enumerate(labels)
    }
    for symbolic in (True, False):
        model = Single("Einsum", arrays, equation=equation, symbolic=symbolic)
        assert model.native, [f"{o.op}: {o.reason}" for o in model.session.explain().fallbacks]
        wanted = np.einsum(equation, *arrays.values())
        (found,) = model.run(**arrays)
        assert found.shape == wanted.shape
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * scale + 1e-5)


def test_equations_that_do_not_fit() -> None:
    assert parse("ij,jk->ik", [2]) is None
    assert parse("ij->i", [3]) is None
    assert parse("ij->k", [2]) is None
    assert parse("ij->ii", [2]) is None
    assert parse("b...i->...", [3]) == ([["b", ".0", "i"]], [".0"])
