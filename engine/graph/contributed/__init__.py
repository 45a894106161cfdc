"""Operators of the domain ``com.microsoft`` in terms of standard ones.

Exporters and graph optimisers write these operators into models; the onnx package knows neither
their schemas nor an implementation. Each becomes standard nodes as soon as the model is read, so
that every later phase (inference, passes, kernels, the reference) knows one set of operators. One
file per family; the docstring of each rule is its algebra. Source of the semantics: the operator
reference of onnxruntime (``docs/ContribOperators.md``), checked against its kernels by the tests.
"""

from engine.graph.contributed.expand import expand
from engine.graph.contributed.registry import known_operators

__all__ = ["expand", "known_operators"]
