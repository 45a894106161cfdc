"""Networks with seeded random weights, built by code, and the shapes they are measured at."""

from benchmarks.models.registry import (
    MODELS,
    BenchmarkModel,
    Dims,
    Inputs,
    case_inputs,
    case_name,
    model_path,
    select,
)

__all__ = [
    "MODELS",
    "BenchmarkModel",
    "Dims",
    "Inputs",
    "case_inputs",
    "case_name",
    "model_path",
    "select",
]
