"""Blocks of products: what a bound program's schedule may be changed to without a byte changing.

A product's work item takes `rows` rows of A and `panels` panels of B. Formulas choose both when a
program is planned (`engine.plan.dot_call`); here they are replaced in a program that is bound, by
what was measured for the product and the bucket of its sizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from engine.codegen.abi import Layout
from engine.codegen.target import Target
from engine.plan.binding import Bound, Sealed
from engine.runtime.layout import Op

_EXACT: Final = 8
_STEPS_PER_OCTAVE: Final = 4
_SHARES: Final = 4
"""Claims per thread that a product is cut into at least, as binding does."""


def bucket(size: int) -> int:
    """`size` rounded up on a geometric grid: exact to 8, then 4 steps per octave."""
    if size <= _EXACT:
        return size
    octave = 1 << ((size - 1).bit_length() - 1)
    step = octave // _STEPS_PER_OCTAVE
    return -(-size // step) * step


@dataclass(frozen=True)
class Blocks:
    """Rows and panels per work item; both at least 1."""

    rows: int
    panels: int


Chosen = Mapping[str, Blocks]
"""Blocks by the key of a product, see `Products.key`."""


@dataclass(frozen=True)
class Product:
    """A product of a sealed program: place of its call and words, its tile, its signature."""

    call: int
    start: int
    layout: Layout
    height: int
    width: int
    signature: str

    def word(self, name: str) -> int:
        """Index of a parameter among the program's words."""
        return self.start + self.layout.fields[name].word


class Products:
    """The products of a sealed program, for `threads` threads."""

    def __init__(self, program: Sealed, target: Target, threads: int) -> None:
        self._program = program
        self._target = target
        self.threads = threads

    @cached_property
    def found(self) -> tuple[Product, ...]:
        """The products, in the order of execution."""
        found = []
        starts = (self._program.starts // 8).tolist()
        for call, (step, start) in enumerate(zip(self._program.steps, starts, strict=True)):
            if step.spec.family == "dot":
                vectors = step.spec.options["vectors"]
                height = self._target.tile_rows(vectors)
                width = vectors * self._target.lanes()
                text = hashlib.blake2b(step.spec.canonical.encode(), digest_size=8).hexdigest()
                found.append(Product(call, start, step.spec.layout, height, width, text))
        return tuple(found)

    def key(self, bound: Bound, product: Product) -> str | None:
        """What blocks are chosen for: kernel, bucket of the sizes, threads.

        None where a product has no work, or so little that one thread does it.
        """
        row = product.call * Op.WORDS
        if bound.operations[row + Op.ITEMS // 8] <= 1:
            return None
        words = bound.parameters
        names = ("m", "n", "k1", "k2", "k3")
        sizes = (bucket(int(words[product.word(name)])) for name in names)
        copied = int(words[product.word("copied")])
        shape = "x".join(map(str, sizes))
        return f"{product.signature} {shape} copied {copied} threads {self.threads}"

    def blocks(self, bound: Bound, product: Product) -> Blocks:
        """Blocks that a program is bound with."""
        words = bound.parameters
        return Blocks(*(int(words[product.word(name)]) for name in ("m_block", "n_block")))

    def neighbours(self, bound: Bound, product: Product) -> list[Blocks]:
        """Blocks half and twice as large, where sizes allow them."""
        own = self.blocks(bound, product)
        tried = [
            Blocks(own.rows * 2, own.panels),
            Blocks(max(own.rows // 2, 1), own.panels),
            Blocks(own.rows, own.panels * 2),
            Blocks(own.rows, max(own.panels // 2, 1)),
        ]
        fitting = dict.fromkeys(self._fitted(bound, product, blocks) for blocks in tried)
        return [blocks for blocks in fitting if blocks != own]

    def _fitted(self, bound: Bound, product: Product, blocks: Blocks) -> Blocks:
        """Whole register tiles of rows, and no more than there are."""
        m, n = (int(bound.parameters[product.word(name)]) for name in "mn")
        height = product.height
        rows = min(-(-blocks.rows // height), -(-m // height)) * height
        return Blocks(max(rows, height), max(1, min(blocks.panels, -(-n // product.width))))

    def change(self, bound: Bound, product: Product, blocks: Blocks) -> None:
        """Give a product of a bound program other blocks."""
        words, row = bound.parameters, product.call * Op.WORDS
        blocks = self._fitted(bound, product, blocks)
        m, n, m_items, n_items = (
            int(words[product.word(name)]) for name in ("m", "n", "m_items", "n_items")
        )
        before = int(bound.operations[row + Op.RANGE // 8])
        grain = int(bound.operations[row + Op.GRAIN // 8])
        batches = before // max(m_items * n_items, 1)
        panels = -(-n // product.width)
        new_m, new_n = -(-m // blocks.rows), -(-panels // blocks.panels)
        items = batches * new_m * new_n
        numbers = {
            "m_block": blocks.rows,
            "n_block": blocks.panels,
            "m_items": new_m,
            "n_items": new_n,
        }
        for name, number in numbers.items():
            words[product.word(name)] = number
        share = max(items // (self.threads * _SHARES), 1)
        bound.operations[row + Op.ITEMS // 8] = items
        bound.operations[row + Op.RANGE // 8] = items
        bound.operations[row + Op.GRAIN // 8] = max(1, min(grain * items // before, share))

    def apply(self, bound: Bound, chosen: Chosen) -> None:
        """Give every product the blocks that are chosen for it."""
        for product in self.found:
            key = self.key(bound, product)
            blocks = chosen.get(key) if key is not None else None
            if blocks is not None:
                self.change(bound, product, blocks)
