"""Blocks: the buckets they belong to, and that no byte follows from them."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine.plan.binding import Bound
from engine.plan.blocks import Blocks, Product, Products, bucket
from engine.runtime.layout import Op
from tests.engine.models import chain


@given(st.integers(0, 1 << 40))
def test_buckets_hold_their_sizes_and_stand_on_the_grid(size: int) -> None:
    found = bucket(size)
    assert size <= found == bucket(found)
    assert found <= max(8, 1.25 * size)
    if found > 8:
        octave = 1 << int(math.log2(found))
        assert found % (octave // 4) == 0
    else:
        assert found == size


@pytest.fixture(scope="module", params=[1, 2])
def session(request: pytest.FixtureRequest) -> engine.Session:
    return engine.load(chain(width=300, layers=3), threads=request.param)


def check_operation(
    products: Products, product: Product, bound: Bound, rows: int, blocks: Blocks
) -> None:
    """Blocks are no larger than the product, items cover it, and a claim leaves some to others."""
    panels = math.ceil(300 / product.width)
    assert 1 <= blocks.panels <= panels
    assert blocks.rows % product.height == 0
    assert blocks.rows < rows + product.height
    row = product.call * Op.WORDS
    items = math.ceil(rows / blocks.rows) * math.ceil(panels / blocks.panels)
    assert bound.operations[row + Op.ITEMS // 8] == items
    assert bound.operations[row + Op.RANGE // 8] == items
    grain = int(bound.operations[row + Op.GRAIN // 8])
    assert 1 <= grain <= max(1, items // (4 * products.threads))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(1, 700),
    blocks=st.lists(
        st.builds(Blocks, st.integers(1, 900), st.integers(1, 40)), min_size=3, max_size=3
    ),
)
def test_no_block_changes_a_byte(session: engine.Session, rows: int, blocks: list[Blocks]) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 300), dtype=np.float32)
    expected = session.run({"x": x})["y"]
    direct = session._state.direct
    assert direct is not None
    runner = direct.runner
    products = Products(runner.program, session._pool.compiler.target, runner.gang.threads)
    assert len(products.found) == 3
    ready = runner.bind({"rows": rows})
    bound = ready.bound
    for product, chosen in zip(products.found, blocks, strict=True):
        key = products.key(bound, product)
        items = int(bound.operations[product.call * Op.WORDS + Op.ITEMS // 8])
        assert (key is None) == (items <= 1), "a product of two items is worth a choice"
        if key is not None:
            copied = product.word("copied")
            bound.parameters[copied] += 1
            assert products.key(bound, product) != key, "copied rows have blocks of their own"
            bound.parameters[copied] -= 1
            products.change(bound, product, chosen)
            assert products.key(bound, product) in (key, None), "keys tell sizes, not blocks"
            own = products.blocks(bound, product)
            assert own not in products.neighbours(bound, product)
            check_operation(products, product, bound, rows, own)
    assert session.run({"x": x})["y"].tobytes() == expected.tobytes()
    runner.forget()


def test_what_is_chosen_is_bound_for_the_whole_bucket() -> None:
    session = engine.load(chain(width=320, layers=1), threads=2)
    direct = session._state.direct
    assert direct is not None
    runner = direct.runner
    products = Products(runner.program, session._pool.compiler.target, 2)
    (product,) = products.found
    key = products.key(runner.bind({"rows": 400}).bound, product)
    assert key is not None
    runner.refine(products, {key: Blocks(24, 2)})
    runner.forget()
    for rows, chosen in ((400, True), (430, True), (600, False)):
        bound = runner.bind({"rows": rows}).bound
        assert (products.blocks(bound, product) == Blocks(24, 2)) == chosen
        x = np.random.default_rng(rows).standard_normal((rows, 320), dtype=np.float32)
        expected = engine.load(chain(width=320, layers=1), threads=1).run({"x": x})["y"]
        assert session.run({"x": x})["y"].tobytes() == expected.tobytes()


def test_two_items_are_worth_a_choice_and_claims_leave_some_to_others() -> None:
    session = engine.load(chain(width=300, layers=1), threads=1)
    direct = session._state.direct
    assert direct is not None
    runner = direct.runner
    products = Products(runner.program, session._pool.compiler.target, 1)
    (product,) = products.found
    bound = runner.bind({"rows": 600}).bound
    row = product.call * Op.WORDS
    items, grain = row + Op.ITEMS // 8, row + Op.GRAIN // 8
    own = int(bound.operations[items])
    for count in (1, 2, 4):
        bound.operations[items] = count
        assert (products.key(bound, product) is None) == (count == 1)
    bound.operations[items] = own
    products.change(bound, product, Blocks(1, 1))
    bound.operations[grain] = bound.operations[items]
    products.change(bound, product, Blocks(2 * product.height, 3))
    found = int(bound.operations[items])
    assert found > 8
    assert bound.operations[grain] == found // 4
    runner.forget()
