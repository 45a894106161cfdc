"""Messages, tensors in them, shared memory: what is sent comes back, what is no message is told."""

from __future__ import annotations

import gc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from cluster.channel import arena, tensors, wire
from cluster.channel.arena import Arena, Mapping, sweep
from cluster.channel.wire import Kind, VersionError, WireError

FOREIGN = wire._PREFIX.pack(b"PHCH", wire.VERSION + 1, 1, 0, -1) + b"{}"


def test_a_message_comes_back():
    header = wire.pack(Kind.RUN, {"key": ["m", 1, 2]}, 7, 0.25)
    message = wire.unpack([header, b"data"])
    assert (message.kind, message.id, message.left_s) == (Kind.RUN, 7, 0.25)
    assert wire.model_key(message.body) == ("m", 1, 2)
    assert message.frames == [b"data"]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"PHCH"],
        [b"HTTP/1.1 200 OK"],
        [wire.pack(Kind.RUN, {})[:12]],
        [wire.pack(Kind.RUN, {}) + b"x"],
        [wire.pack(Kind.RUN, {}).replace(b"{}", b"[]")],
        [wire.pack(Kind.RUN, {}).replace(b"{}", b"\xff\xfe")],
        [wire._PREFIX.pack(b"PHCH", wire.VERSION, 200, 0, -1) + b"{}"],
        [wire.pack(Kind.RUN, {})] * (wire.MAX_FRAMES + 1),
    ],
)
def test_what_is_no_message_is_refused(frames: list[bytes]):
    with pytest.raises(WireError):
        wire.unpack(frames)


def test_another_version_is_told_apart():
    with pytest.raises(VersionError, match=f"version {wire.VERSION + 1} .* version {wire.VERSION}"):
        wire.unpack([FOREIGN])


@given(st.lists(st.binary(max_size=64), max_size=3), st.binary(max_size=80))
def test_noise_never_gets_through(frames: list[bytes], tail: bytes):
    for noise in (frames, [wire.pack(Kind.RUN, {})[:24] + tail, *frames]):
        try:
            message = wire.unpack(noise)
        except WireError:
            continue
        assert isinstance(message.body, dict)


KINDS = sorted(set(tensors.DTYPES) - {"str"})


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(KINDS),
    npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    st.integers(1, 3),
)
def test_tensors_come_back(kind: str, shape: tuple[int, ...], count: int):
    rng = np.random.default_rng(0)
    parts = [
        {"a": rng.integers(0, 2, shape).astype(tensors.DTYPES[kind]), "b": np.float32([[1.5]])}
        for _ in range(count)
    ]
    parcel = tensors.pack_batch(parts, None)
    found = tensors.unpack(parcel.listing, [bytes(frame) for frame in parcel.frames], None)
    for name in "ab":
        wanted = np.concatenate([part[name] for part in parts])
        assert found[name].dtype == wanted.dtype
        assert found[name].shape == wanted.shape
        assert found[name].tobytes() == wanted.tobytes()


def test_strings_and_scalars_come_back():
    text = np.array([["a", "", "ü\udcff"], ["\0", "日本", "x" * 1000]], object)
    parcel = tensors.pack_batch([{"t": text, "s": np.array(3.5)}], None)
    found = tensors.unpack(parcel.listing, [bytes(frame) for frame in parcel.frames], None)
    assert found["t"].tolist() == text.tolist()
    assert found["s"].shape == ()
    assert found["s"] == 3.5


@pytest.mark.parametrize("value", [[np.zeros(3)], None])
def test_what_cannot_travel_is_named(value: object):
    with pytest.raises(TypeError, match="'x' is a"):
        tensors.pack_batch([{"x": value}], None)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("listing", "frames"),
    [
        (None, []),
        ([["x"]], []),
        ([["x", "float32", [1], None]], []),
        ([["x", "float32", [1], None]], [b"123"]),
        ([["x", "float32", [-1], None]], [b"1234"]),
        ([["x", "float32", [True], None]], [b"1234"]),
        ([["x", "float32", ["1"], None]], [b"1234"]),
        ([["x", "float32", [1] * 65, None]], [b"1234"]),
        ([["x", "float32", [0, 1 << 70], None]], [b""]),
        ([["x", "pickle", [1], None]], [b"1234"]),
        ([["x", "object", [1], None]], [b"12345678"]),
        ([["x", "str", [2], None]], [b"\0\0\0\0"]),
        ([["x", "str", [1], None]], [b"\xff\xff\xff\xffabc"]),
        ([["x", "str", [1], None]], [b"\0\0\0\0abc"]),
        ([["x", "float32", [1], [4096, 4]]], []),
        ([], [b"left over"]),
    ],
)
def test_malformed_tensors_are_refused(listing: object, frames: list[bytes]):
    with pytest.raises(WireError):
        tensors.unpack(listing, frames, None)


@pytest.fixture
def memory():
    made = Arena(1 << 20)
    yield made
    made.close()


def test_parts_are_joined_in_shared_memory(memory: Arena):
    parts = [{"x": np.full((n, 100, 100), n, np.float32)} for n in (1, 3, 2)]
    parcel = tensors.pack_batch(parts, memory)
    assert parcel.frames == []
    mapping = Mapping(memory.offer())
    found = tensors.unpack(parcel.listing, [], mapping)["x"]
    np.testing.assert_array_equal(found, np.concatenate([part["x"] for part in parts]))
    assert not found.flags.writeable
    tensors.discard(parcel, memory)
    assert memory.used == 0


def test_full_memory_sends_in_frames(memory: Arena):
    big = {"x": np.ones(700_000, np.uint8), "y": np.ones(700_000, np.uint8)}
    parcel = tensors.pack_batch([big], memory)
    assert [entry[3] is None for entry in parcel.listing] == [False, True]
    assert len(parcel.frames) == 1


def test_lent_blocks_come_back_with_the_last_view(memory: Arena):
    parcel = tensors.pack_batch([{"x": np.ones((2, 1 << 16), np.float32)}], memory)
    mapping = Mapping(memory.offer())
    found = tensors.unpack(parcel.listing, [], mapping, lend=True)
    row = found["x"][1:]
    del found
    gc.collect()
    assert not mapping.released
    del row
    gc.collect()
    assert list(mapping.released) == parcel.blocks


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300_000)), max_size=40))
def test_blocks_never_overlap_and_none_is_lost(steps: list[tuple[bool, int]]):
    memory = Arena(1 << 20)
    held: dict[int, int] = {}
    for allocate, number in steps:
        if allocate:
            offset = memory.allocate(number)
            if offset is not None:
                assert offset + number <= memory.size
                assert all(offset + number <= o or o + n <= offset for o, n in held.items())
                held[offset] = number
        elif held:
            offset = sorted(held)[number % len(held)]
            del held[offset]
            memory.free(offset)
    for offset in held:
        memory.free(offset)
    assert memory.allocate((1 << 20) - 4096) is not None, "all in one piece again"
    memory.close()


@pytest.mark.parametrize("block", [(0, 10), (4096, 1 << 30), (1 << 40, 1), (4096, 0), (-4096, 9)])
def test_blocks_outside_are_refused(memory: Arena, block: tuple[int, int]):
    mapping = Mapping(memory.offer())
    for look in (mapping.view, mapping.lend):
        with pytest.raises(WireError):
            look(*block)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/etc/passwd"},
        {"path": "/dev/shm/../../etc/passwd"},
        {"size": 5},
        {"nonce": "00"},
        {"size": "big"},
        {"path": "/dev/shm/packhorse-none"},
    ],
)
def test_other_memory_is_not_mapped(memory: Arena, change: dict):
    with pytest.raises((WireError, OSError)):
        Mapping(memory.offer() | change)


def test_memory_without_an_owner_is_swept(tmp_path: Path):
    orphan = tmp_path / "packhorse-orphan"
    orphan.write_bytes(b"")
    owned = Arena(1 << 16, tmp_path)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [owned.path]
    owned.close()
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_noticed_before_it_is_written_to(memory: Arena, monkeypatch):
    def refuse(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arena.os, "posix_fallocate", refuse)
    assert memory.allocate(100_000) is None


def test_bfloat16_keeps_its_bits():
    x = np.array([1.0, np.nan, -0.0, 3.14], ml_dtypes.bfloat16)
    parcel = tensors.pack_batch([{"x": x}], None)
    found = tensors.unpack(parcel.listing, [bytes(parcel.frames[0])], None)["x"]
    assert found.tobytes() == x.tobytes()
