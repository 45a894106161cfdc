"""Blocks: the buckets they belong to, and that no byte follows from them."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine.cpu import machine
from engine.plan.blocks import Blocks, Products, bucket
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
        if key is not None:
            products.change(bound, product, chosen)
            assert products.key(bound, product) in (key, None), "keys tell sizes, not blocks"
            own = products.blocks(bound, product)
            assert own not in products.neighbours(bound, product)
    assert session.run({"x": x})["y"].tobytes() == expected.tobytes()
    runner.forget()


def test_what_is_chosen_is_bound_for_the_whole_bucket() -> None:
    if machine().threads < 2:
        pytest.skip("products are shared by two threads")
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
