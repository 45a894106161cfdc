"""What every native operator must keep, checked on an example of it.

On one session, shapes A, B, A, C give what onnxruntime gives and the second A the bytes of the
first; a row gives the same bytes alone, at any place in a batch and on any number of threads;
arrays that are not contiguous or not aligned give the same bytes.
"""

from __future__ import annotations

import ctypes
import mmap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import engine
from engine.plan import lowering
from tests.engine.equality import assert_equal
from tests.engine.plan.lower.example import Array, Example, Sizes
from tests.engine.plan.lower.examples import REWRITTEN


class Subject:
    """An example on one thread and on two, and in another implementation.

    `key` is the lowering that the example reaches, or an operator that is `expanded` to others.
    """

    def __init__(self, key: str, example: Example, expanded: bool = False) -> None:
        self.key, self.example = key, example
        self.model = example.model()
        with recorded() as reached:
            self.sessions = [engine.load(self.model, threads=threads) for threads in (1, 2)]
        assert not self.sessions[0].explain().fallbacks, self.sessions[0].explain().fallbacks
        if not expanded and not any(given.dtype == np.float16 for given in self.sessions[0].inputs):
            # 16-bit floats are cast around what computes in 32 bits, and that chain is fused.
            lowered = {key, REWRITTEN.get(key, key)}
            assert lowered & reached, f"the example reaches only {sorted(reached)}"
        self.oracle = oracle(self.model, example.reference)

    def close(self) -> None:
        for session in self.sessions:
            session.close()

    def run(self, feeds: dict[str, Array], session: int = 1) -> list[Array]:
        results = self.sessions[session].run(feeds)
        return [results[name] for name in self.example.outputs]

    def expected(self, feeds: dict[str, Array]) -> list[Array]:
        subject = self.oracle
        reduces = self.key.startswith(("Reduce", "Arg"))
        if reduces and any(array.size == 0 for array in feeds.values()):
            # onnxruntime 1.31 gives [0, 7, 5] for the sum of [0, 7, 5] along its last axis, and
            # the same for the places of the largest.
            subject = ReferenceEvaluator(onnx.ModelProto.FromString(self.model))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found: list[Array] = subject.run(list(self.example.outputs), feeds)
        return [np.asarray(array) for array in found]


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Keys of the lowerings that succeed inside."""
    reached: set[str] = set()

    def recording(name: str, function: lowering.Lower) -> lowering.Lower:
        def lower(node: Any, low: Any) -> None:
            function(node, low)
            reached.add(name)

        return lower

    with pytest.MonkeyPatch.context() as patch:
        for name, function in lowering.lowerings().items():
            patch.setitem(lowering._REGISTRY, name, recording(name, function))
        yield reached


def oracle(model: bytes, reference: str = "") -> Any:
    """onnxruntime, or the onnx package where it has no such operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not reference:
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime's errors have no base of their own
            pass
    return ReferenceEvaluator(onnx.ModelProto.FromString(model))


def same_bytes(found: Sequence[Array], wanted: Sequence[Array]) -> None:
    for first, second in zip(found, wanted, strict=True):
        assert (first.shape, first.dtype) == (second.shape, second.dtype)
        assert first.tobytes() == second.tobytes()


def check_sequence(subject: Subject, sequence: Iterable[tuple[str, Sizes]]) -> None:
    """Each of the named sizes equals the oracle, and gives the same bytes whenever it is met."""
    first: dict[str, list[Array]] = {}
    for name, sizes in sequence:
        feeds = subject.example.feeds(sizes)
        found = subject.run(feeds)
        for got, wanted in zip(found, subject.expected(feeds), strict=True):
            assert_equal(got, wanted, f"shape {name}")
        same_bytes(found, first.setdefault(name, found))


def check_rows(subject: Subject, sizes: Sizes, seed: int = 3) -> None:
    """One thread gives the bytes of two, and a row those that it has in any other batch."""
    example = subject.example
    feeds = example.feeds(sizes, seed)
    whole = subject.run(feeds)
    same_bytes(subject.run(feeds, session=0), whole)
    rows = sizes["n"]
    if not example.rows or not rows:
        return
    for chosen in ([0], [rows - 1], [rows // 2, 0], list(range(rows - 1, -1, -1))):
        part = {k: a[chosen] if example.has_rows(k) else a for k, a in feeds.items()}
        for session in (0, 1):
            same_bytes(subject.run(part, session), [array[chosen] for array in whole])


def unaligned(array: Array) -> Array:
    memory = np.empty(array.nbytes + 1, np.uint8)
    found: Array = memory[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def strided(array: Array) -> Array:
    found = np.empty((*array.shape, 3), array.dtype)
    found[..., 1] = array
    return found[..., 1]


def reversed_twice(array: Array) -> Array:
    return np.ascontiguousarray(array.T[::-1])[::-1].T if array.ndim else array


def _guarded(array: Array, end: bool) -> Array:
    """A copy whose last, or first, byte lies beside a page that must not be touched."""
    page = mmap.PAGESIZE
    room = -(-array.nbytes // page) * page
    memory = np.frombuffer(mmap.mmap(-1, room + 2 * page), np.uint8)
    start = int(memory.__array_interface__["data"][0])
    for guard in (start, start + page + room):
        assert _LIBC.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    first = page + (room - array.nbytes if end else 0)
    copied = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


_LIBC: Final = ctypes.CDLL(None)


def at_the_end(array: Array) -> Array:
    """What reads behind the array ends the process."""
    return _guarded(array, end=True)


def at_the_start(array: Array) -> Array:
    """What reads before the array ends the process."""
    return _guarded(array, end=False)


FORMS: Final = (unaligned, strided, reversed_twice, at_the_end, at_the_start)


def check_form(subject: Subject, sizes: Sizes, form: Any) -> None:
    """Arrays that lie otherwise give the same bytes."""
    feeds = subject.example.feeds(sizes)
    formed = {name: form(array) for name, array in feeds.items()}
    same_bytes(subject.run(formed), subject.run(feeds))
