"""Shapes that a session never met compile nothing and leave no trace in the bytes of others."""

from collections.abc import Callable

import numpy as np
import pytest

import engine
from benchmarks.models import recurrent
from benchmarks.models.detection import pnet
from benchmarks.models.transformer import narrow_encoder

Arrays = dict[str, np.ndarray]


def _sentences(batch: int, length: int) -> Arrays:
    rng = np.random.default_rng(batch * 1000 + length)
    shape = batch, length
    return {
        "ids": rng.integers(0, 1000, shape),
        "mask": np.ones(shape, np.int64),
        "types": np.zeros(shape, np.int64),
    }


def _image(height: int, width: int) -> Arrays:
    rng = np.random.default_rng(height * 1000 + width)
    return {"image": rng.random((2, 3, height, width), dtype=np.float32)}


def _steps(length: int, batch: int) -> Arrays:
    rng = np.random.default_rng(batch * 1000 + length)
    return {"x": rng.standard_normal((length, batch, 48), dtype=np.float32)}


MODELS: dict[str, tuple[Callable[[], bytes], Callable[[int, int], Arrays]]] = {
    "transformer": (lambda: narrow_encoder().SerializeToString(), _sentences),
    "convolutions": (lambda: pnet().SerializeToString(), _image),
    "recurrent": (lambda: recurrent.layer("LSTM", 48).SerializeToString(), _steps),
}

SEQUENCES = {
    "transformer": [(3, 17), (2, 40), (3, 17), (8, 3), (0, 5), (1, 17)],
    "convolutions": [(30, 41), (64, 50), (30, 41), (33, 97), (12, 12)],
    "recurrent": [(7, 2), (20, 5), (7, 2), (1, 1), (4, 0), (7, 9)],
}


def test_a_thousand_new_shapes_compile_nothing() -> None:
    session = engine.load(narrow_encoder().SerializeToString(), threads=2)
    compiler = session._pool.compiler
    shapes = [(batch, length) for length in range(1, 126) for batch in range(1, 9)]
    compiled, compiler.sealed = compiler.compiled, True
    try:
        for batch, length in shapes:
            session.run(_sentences(batch, length))
    finally:
        compiler.sealed = False
    stats = session.stats()
    assert stats["binds"] == len(shapes) == 1000
    assert compiler.compiled == compiled
    assert stats["bound_bytes"] <= 12 << 20


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_other_shapes_before_change_no_byte(name: str, threads: int) -> None:
    """Sizes of 0 among them."""
    build, inputs = MODELS[name]
    model = build()
    session = engine.load(model, threads=threads)
    for shape in SEQUENCES[name]:
        given = inputs(*shape)
        found = session.run(given)
        fresh = engine.load(model, threads=threads).run(given)
        for output, array in fresh.items():
            assert found[output].shape == array.shape
            assert found[output].tobytes() == array.tobytes(), (shape, output)


@pytest.mark.parametrize("name", ["transformer", "recurrent"])
def test_sequences_of_one_length_are_as_alone(name: str) -> None:
    build, inputs = MODELS[name]
    session = engine.load(build(), threads=2)
    length, batch = 23, 5
    given = inputs(batch, length) if name == "transformer" else inputs(length, batch)
    axis = 0 if name == "transformer" else 1
    together = session.run(given)
    for place in range(batch):
        part = {key: np.take(array, [place], axis) for key, array in given.items()}
        for output, array in session.run(part).items():
            along = next(i for i, size in enumerate(together[output].shape) if size == batch)
            same = np.take(together[output], [place], along)
            assert same.tobytes() == array.tobytes(), output
