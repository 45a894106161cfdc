"""Symbolic inference of data types, shapes and shape values over a typed graph."""

from engine.graph.inference.context import Guard, Inference, Unknown
from engine.graph.inference.registry import has_rule, rule
from engine.graph.inference.walk import infer

__all__ = ["Guard", "Inference", "Unknown", "has_rule", "infer", "rule"]
