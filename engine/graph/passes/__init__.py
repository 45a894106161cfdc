"""Passes over the typed graph, each with its algebra in its docstring."""

from engine.graph.passes.attention import attention, standard_attention
from engine.graph.passes.branches import branches
from engine.graph.passes.classical import classical
from engine.graph.passes.common_subexpressions import common_subexpressions
from engine.graph.passes.constant_folding import constant_folding
from engine.graph.passes.data_sizes import data_sizes
from engine.graph.passes.dead_code import dead_code
from engine.graph.passes.deformable import deformable
from engine.graph.passes.einsum import einsum
from engine.graph.passes.expansion import expansion
from engine.graph.passes.fold_batchnorm import fold_batchnorm
from engine.graph.passes.fourier import fourier
from engine.graph.passes.functions import functions
from engine.graph.passes.gelu import gelu
from engine.graph.passes.halves import halves
from engine.graph.passes.hard_activations import hard_activations
from engine.graph.passes.identities import identities
from engine.graph.passes.layer_norm import layer_norm
from engine.graph.passes.manager import Pass, PassReport, run
from engine.graph.passes.opset_upgrade import opset_upgrade
from engine.graph.passes.quantization import quantization
from engine.graph.passes.recurrences import recurrences
from engine.graph.passes.reshapes import reshapes
from engine.graph.passes.runtime_sizes import runtime_sizes
from engine.graph.passes.scans import scans
from engine.graph.passes.selections import selections
from engine.graph.passes.transposed_convolutions import transposed_convolutions
from engine.graph.passes.transposes import transposes

CANONICAL: tuple[Pass, ...] = (
    opset_upgrade,
    classical,
    halves,
    standard_attention,
    functions,
    scans,
    transposed_convolutions,
    deformable,
    einsum,
    selections,
    constant_folding,
    expansion,
    fourier,
    identities,
    reshapes,
    transposes,
    layer_norm,
    gelu,
    hard_activations,
    fold_batchnorm,
    common_subexpressions,
    dead_code,
)
"""Passes that bring a model into one form, for the fusion and layout passes after them.

Old forms go first and constants next, because every later match reads constants; activations come
before folding, so that a constant factor of theirs is not taken for a channel scale.
"""

CANONICAL_ROUNDS = 4

__all__ = [
    "CANONICAL",
    "CANONICAL_ROUNDS",
    "Pass",
    "PassReport",
    "attention",
    "branches",
    "classical",
    "common_subexpressions",
    "constant_folding",
    "data_sizes",
    "dead_code",
    "deformable",
    "einsum",
    "expansion",
    "fold_batchnorm",
    "fourier",
    "functions",
    "gelu",
    "halves",
    "hard_activations",
    "identities",
    "layer_norm",
    "opset_upgrade",
    "quantization",
    "recurrences",
    "reshapes",
    "run",
    "runtime_sizes",
    "scans",
    "selections",
    "standard_attention",
    "transposed_convolutions",
    "transposes",
]
