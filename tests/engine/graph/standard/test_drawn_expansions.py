"""Every expanded operator keeps the promises of kernels at drawn attributes, types and sizes.

The registry of expansions is walked: one that nothing is drawn for fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.graph.body import Body
from engine.graph.standard import Expansion, expansions
from tests.engine.graph.standard.drawn import DRAWN, examples
from tests.engine.plan.lower.drawn.support import sizes
from tests.engine.plan.lower.promises import (
    FORMS,
    Subject,
    check_form,
    check_rows,
    check_sequence,
)

FEW: Final = settings(
    max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
MANY: Final = settings(FEW, max_examples=60)


@contextmanager
def written() -> Iterator[set[str]]:
    """Operators whose expansions write something inside."""
    found: set[str] = set()

    def recording(name: str, rule: Expansion) -> Expansion:
        def expand(body: Body) -> bool:
            wrote = rule(body)
            if wrote:
                found.add(name)
            return wrote

        return expand

    with pytest.MonkeyPatch.context() as patch:
        registered = expansions()
        for name, rule in tuple(registered.items()):
            patch.setitem(registered, name, recording(name, rule))
        yield found


def test_models_of_every_expansion_are_drawn() -> None:
    assert DRAWN.keys() == expansions().keys()


def check(operator: str, data: st.DataObject) -> None:
    example: Any = data.draw(examples(operator))
    first, second, third = (data.draw(sizes(example)) for _ in range(3))
    with written() as found:
        subject = Subject(operator, example, expanded=True)
    assert operator in found
    try:
        check_sequence(subject, [("A", first), ("B", second), ("A", first), ("C", third)])
        for drawn in (first, second):
            check_rows(subject, drawn)
        check_form(subject, third, data.draw(st.sampled_from(FORMS)))
    finally:
        subject.close()


@pytest.mark.parametrize("operator", sorted(DRAWN))
@FEW
@given(data=st.data())
def test_promises_hold_for_drawn_models(operator: str, data: st.DataObject) -> None:
    check(operator, data)


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(DRAWN))
@MANY
@given(data=st.data())
def test_promises_hold_for_many_drawn_models(operator: str, data: st.DataObject) -> None:
    check(operator, data)
