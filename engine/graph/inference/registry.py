"""The registry of inference rules, one per operator; importing a family file fills it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from engine.graph.inference.context import Inference

Rule: TypeAlias = Callable[[Inference], None]
"""Sets the outputs of one node. `Unknown` leaves what is not set yet as it was."""

RULES: Final[dict[tuple[str, str], Rule]] = {}


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the rule of `operators`; a second rule for one operator is a programming error."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            assert (domain, operator) not in RULES, f"second rule for {operator}"
            RULES[domain, operator] = function
        return function

    return register


def has_rule(operator: str, domain: str = "") -> bool:
    """Whether inference knows the operator."""
    return (domain, operator) in RULES
