"""The passes of the offline phase, in order."""

from __future__ import annotations

from engine.graph.ir import Graph
from engine.graph.passes import (
    CANONICAL,
    CANONICAL_ROUNDS,
    PassReport,
    attention,
    branches,
    data_sizes,
    dead_code,
    recurrences,
    run,
    runtime_sizes,
)
from engine.graph.passes.channels_last import channels_last
from engine.graph.passes.few_channels import few_channels
from engine.graph.passes.fuse_elementwise import fuse_elementwise
from engine.graph.passes.fuse_epilogue import fuse_epilogue
from engine.graph.passes.identities import identities
from engine.graph.passes.planar_heads import planar_heads
from engine.graph.passes.quantization import quantization
from engine.graph.passes.reduced_precision import Reduction, reduced_precision
from engine.graph.passes.shared_kernels import shared_kernels
from engine.graph.passes.siblings import siblings
from engine.graph.passes.transposes import transposes
from engine.precision import Precision

BRANCHES = 16
"""Most branches of different rank that are decided, one after the other."""


def optimise(graph: Graph) -> list[PassReport]:
    """Bring a model into one form, lay it out channels-last, fuse; reports of every pass."""
    reports = run(graph, CANONICAL, CANONICAL_ROUNDS)
    measured = run(graph, (runtime_sizes, data_sizes, branches), BRANCHES)
    if any(report.changes for report in measured):
        reports += measured + run(graph, CANONICAL, CANONICAL_ROUNDS)
    reports += run(graph, (recurrences, dead_code, quantization, attention, dead_code))
    reports += run(graph, (channels_last, transposes, identities, dead_code), 2)
    reports += run(graph, (fuse_epilogue, fuse_elementwise, few_channels, siblings, planar_heads))
    reports += run(graph, (shared_kernels, dead_code))
    return reports


def reduce(graph: Graph, precision: Precision, native: bool) -> tuple[list[PassReport], Reduction]:
    """Let products of an optimised model multiply in fewer bits; what became of which.

    `native` tells whether the CPU has bf16 arithmetic.

    Raises InputError where `precision` names a node that is no product.
    """
    found = Reduction()
    if not precision.reduced:
        return [], found

    def reducing(inner: Graph) -> PassReport:
        nonlocal found
        report, found = reduced_precision(inner, precision, native)
        return report

    return run(graph, (reducing,)), found
