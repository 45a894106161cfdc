"""Networks with seeded random weights, built by code, and the shapes they are measured at."""

from benchmarks.models.registry import (
    LAYERS,
    MODELS,
    BenchmarkModel,
    Dims,
    Inputs,
    case_inputs,
    case_name,
    find,
    model_path,
    select,
)

__all__ = [
    "LAYERS",
    "MODELS",
    "BenchmarkModel",
    "Dims",
    "Inputs",
    "case_inputs",
    "case_name",
    "find",
    "model_path",
    "select",
]
