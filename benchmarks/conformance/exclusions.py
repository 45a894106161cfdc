"""Cases that need not pass, each with the reason."""

from __future__ import annotations

import re
from typing import Final

_REASONS: Final[dict[str, str]] = {
    r"test_bernoulli\w*": "random draws, expected from one generator",
    r"test_attention_4d_causal_fp16_expanded": (
        "its expected outputs were rounded to float16 at every step and lie 4.9e-4 from the exact "
        "ones, ours 4.0e-4"
    ),
    r"test_gradient_\w+": "Gradient is for training; it has no reference implementation either",
    r"test_flexattention_(causal_mask|prob_mod|relative_positional|score_mod|soft_cap)": (
        "FlexAttention with subgraphs is a preview operator"
    ),
}
"""Reasons by pattern of the whole name."""


def reason_to_exclude(name: str) -> str | None:
    """Why a case need not pass, None where it must."""
    for pattern, reason in _REASONS.items():
        if re.fullmatch(pattern, name):
            return reason
    return None
