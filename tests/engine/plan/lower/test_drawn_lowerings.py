"""Every native operator keeps its promises at drawn attributes, data types, ranks and sizes.

The table of what is drawn is walked by the registry of lowerings: an operator that nothing is drawn
for fails here. `test_every_lowering` checks the same promises on one model of each operator.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.plan import lowering
from tests.engine.plan.lower.drawn.support import DRAWN, examples, sizes
from tests.engine.plan.lower.examples import UNREACHED
from tests.engine.plan.lower.promises import (
    FORMS,
    Subject,
    check_form,
    check_rows,
    check_sequence,
)

for _module in (
    *("data_sizes", "elementwise", "fourier", "indexing", "movement", "places", "products"),
    *("reduction", "windows"),
):
    import_module(f"tests.engine.plan.lower.drawn.{_module}")

FEW: Final = settings(
    max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
MANY: Final = settings(FEW, max_examples=60)


def test_models_of_every_lowering_are_drawn() -> None:
    missing = lowering.lowerings().keys() - DRAWN.keys() - UNREACHED.keys()
    assert not missing, f"draw models of {sorted(missing)} in tests/engine/plan/lower/drawn"
    gone = DRAWN.keys() - lowering.lowerings().keys()
    assert not gone, f"models are drawn of lowerings that do not exist: {sorted(gone)}"


def check(key: str, data: st.DataObject) -> None:
    example: Any = data.draw(examples(key))
    first, second, third = (data.draw(sizes(example)) for _ in range(3))
    subject = Subject(key, example)
    try:
        check_sequence(subject, [("A", first), ("B", second), ("A", first), ("C", third)])
        for drawn in (first, second):
            check_rows(subject, drawn)
        check_form(subject, third, data.draw(st.sampled_from(FORMS)))
    finally:
        subject.close()


@pytest.mark.parametrize("key", sorted(DRAWN))
@FEW
@given(data=st.data())
def test_promises_hold_for_drawn_models(key: str, data: st.DataObject) -> None:
    check(key, data)


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(DRAWN))
@MANY
@given(data=st.data())
def test_promises_hold_for_many_drawn_models(key: str, data: st.DataObject) -> None:
    check(key, data)
