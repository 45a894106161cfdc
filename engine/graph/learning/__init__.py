"""Operators of the domain ``ai.onnx.ml`` in terms of standard ones and of `packhorse.Trees`.

One file per family; the pass `classical` applies the rules. What no rule expresses (texts, maps)
stays, and runs on the reference implementation.
"""

from engine.graph.learning.registry import DOMAIN, rewrites

__all__ = ["DOMAIN", "rewrites"]
