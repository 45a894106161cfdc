"""Rare forms of standard operators in terms of common ones.

Kernels exist for what models use: float32 images, signed integers, constant parameters. A form
beyond these is written as nodes that kernels do take, where that costs little more than a kernel of
its own. One file per family; the docstring of each rule is its algebra.
"""

from engine.graph.standard.registry import Expansion, expansions

__all__ = ["Expansion", "expansions"]
