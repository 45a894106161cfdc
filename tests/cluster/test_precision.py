"""What a model asks of its precision, resolved and sent."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import parse_config
from cluster.precision import UNSPECIFIED, PrecisionChoice
from engine.precision import FP32, Precision


def test_a_model_that_says_nothing_takes_the_default() -> None:
    assert UNSPECIFIED.over(None) == FP32
    assert UNSPECIFIED.over("bf16") == Precision("bf16")
    assert UNSPECIFIED.or_else("bf16").kind == "bf16"


def test_a_model_that_says_something_keeps_it() -> None:
    choice = parse_config(
        {"precision": "bf16", "fp32_nodes": ["head"], "bf16_first": 3}, "m"
    ).precision_choice
    assert choice.over("fp32") == choice.or_else("fp32").over(None)
    assert choice.over("fp32") == Precision("bf16", ("head",), 3)
    assert parse_config({"precision": "fp32"}, "m").precision_choice.over("bf16") == FP32


def test_kept_nodes_count_where_the_default_is_bf16_only() -> None:
    choice = parse_config({"fp32_nodes": ["head"]}, "m").precision_choice
    assert choice.over("bf16").keep == ("head",)
    assert choice.over(None) == FP32


@pytest.mark.parametrize(
    "choice", [UNSPECIFIED, PrecisionChoice("bf16", ("a", "b"), 0), PrecisionChoice("fp32")]
)
def test_messages_hold_it_whole(choice: PrecisionChoice) -> None:
    assert PrecisionChoice.read(choice.body()) == choice


@pytest.mark.parametrize(
    "body",
    [
        "bf16",
        {"kind": "fp8"},
        {"keep": "head"},
        {"keep": [1]},
        {"first": -1},
        {"first": True},
        {"first": 1.0},
        {"kind": ["bf16"]},
    ],
)
def test_nonsense_is_no_choice(body: Any) -> None:
    assert PrecisionChoice.read(body) is None
