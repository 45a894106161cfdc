"""Prepared models on disk: a second start of a model neither plans nor packs.

An entry's key tells everything that decides its content: a digest of the model, one of the engine's
sources, the versions of the libraries that planning uses, the instruction set and the number of
threads. The full key is kept in the entry and compared on every read. Weights lie in the entry as
they lie in memory; they are read, not mapped, because kernels stream them faster from huge pages.
Only models that are native throughout and that lie in one file are kept.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import stat
import struct
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

import engine
from engine.codegen.store import FileStore, default_folder
from engine.codegen.target import Target
from engine.plan.prepared import Prepared
from engine.plan.weights import WeightMemory

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_MAGIC: Final = b"packhorse-plan-1"
_HEAD: Final = struct.Struct("<16sQQQQ")
"""Magic, bytes of key, of the pickled plan and of weights, sum of the weights' 8-byte words."""

_PAGE: Final = 4096
_CHUNK: Final = 8 << 20
_TICK_NS: Final = 2_000_000_000
"""Coarsest resolution of a file system's times."""

_REMEMBERED: Final = 1024
"""Digests of files that are remembered."""

_SMALLEST: Final = 1 << 16
"""Smaller model files are planned in less time than an entry is worth."""

_SHARE_OF_DISK: Final = 0.1
"""An entry takes at most this share of what is free on the disk."""


class PlanStore(FileStore):
    """Byte-bounded map from key text to prepared models."""

    suffix = ".plan"

    def __init__(self, folder: Path | None = None, limit: int = 4 << 30) -> None:
        super().__init__((folder or default_folder()) / "plans", limit)

    def get(self, key: str) -> Prepared | None:
        """The model kept under `key`; a torn or foreign entry counts as absent."""
        if not self._usable:
            return None
        path = self._path(key)
        found = None
        # Whatever is wrong with an entry, the model can be prepared again.
        with suppress(
            OSError, pickle.PickleError, EOFError, AttributeError, ImportError, ValueError
        ):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    found = _read(file, key)
        self._count("hits" if found is not None else "misses")
        if found is not None:
            os.utime(path)
        return found

    def put(self, key: str, prepared: Prepared) -> None:
        """Keep a model under `key` where it can be kept; a full disk is not an error."""
        if not self._usable or not prepared.storable:
            return
        if prepared.weights.size > _SHARE_OF_DISK * shutil.disk_usage(self.folder).free:
            return
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                _write(file, key, prepared)
            Path(file.name).replace(self._path(key))
        except (OSError, pickle.PickleError, RecursionError):
            with suppress(OSError, UnboundLocalError):
                Path(file.name).unlink()
            return
        self._evict()

    def key(
        self, source: str | Path | bytes, target: Target, threads: int, winograd: bool = True
    ) -> str | None:
        """As `plan_key`, with the digest of a file that was seen before remembered.

        It is remembered by the file's identity: device, inode, size, times of modification and
        change. The kernel sets the latter, so a file of the same identity has the same content,
        unless it was written again in the clock tick of the digest; files that young are digested
        anew.
        """
        if not isinstance(source, str | Path) or not self._usable:
            return plan_key(source, target, threads, winograd)
        try:
            before = _identity(source)
            path = self.folder / f"{_hash(repr(before).encode()).hex()}.seen"
            digest = _remembered(path)
            if digest is None:
                digest = _digest(source)
                aged = time.time_ns() - max(before[-2:]) > _TICK_NS
                if digest is not None and aged and _identity(source) == before:
                    self._remember(path, digest)
        except (OSError, ValueError):
            return None
        return None if digest is None else _key(digest, target, threads, winograd)

    def _remember(self, path: Path, digest: str) -> None:
        with suppress(OSError):
            seen = list(self.folder.glob("*.seen"))
            for old in seen if len(seen) >= _REMEMBERED else ():
                old.unlink(missing_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
                file.write(digest)
            Path(file.name).replace(path)

    def clear(self) -> int:
        """Remove every entry; returns how many there were."""
        for path in self.folder.glob("*.seen"):
            path.unlink(missing_ok=True)
        return super().clear()


def plan_key(
    source: str | Path | bytes, target: Target, threads: int, winograd: bool = True
) -> str | None:
    """Key of a model, None where it is not to be kept: small, or no readable file."""
    digest = _digest(source)
    return None if digest is None else _key(digest, target, threads, winograd)


def _identity(path: str | Path) -> tuple[int, ...]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _remembered(path: Path) -> str | None:
    with suppress(OSError):
        if path.lstat().st_uid == os.geteuid():
            digest = path.read_text()
            return digest if len(digest) == 64 else None
    return None


def _key(digest: str, target: Target, threads: int, winograd: bool) -> str:
    parts = (
        f"model {digest}",
        f"engine {_sources()}",
        f"{target.name} {target.triple} {target.cpu} {target.features}",
        f"threads {threads} winograd {winograd}",
        f"numpy {np.__version__} onnx {_version('onnx')}",
    )
    return "\n".join(parts)


@cache
def _version(distribution: str) -> str:
    return version(distribution)


@cache
def _sources() -> str:
    """Digest of the engine's sources."""
    digest = hashlib.blake2b(digest_size=32)
    root = Path(engine.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _digest(source: str | Path | bytes) -> str | None:
    """Digest of a model's bytes, taken over chunks by two threads."""
    if not isinstance(source, str | Path):
        data = memoryview(source)
        if data.nbytes < _SMALLEST:
            return None
        return _combined([_hash(data[i : i + _CHUNK]) for i in range(0, data.nbytes, _CHUNK)])
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size < _SMALLEST:
            return None
        starts = range(0, status.st_size, _CHUNK)
        with ThreadPoolExecutor(2) as pool:
            return _combined(pool.map(lambda at: _hash(os.pread(descriptor, _CHUNK, at)), starts))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _combined(parts: Any) -> str:
    return _hash(b"".join(parts)).hex()


def _write(file: Any, key: str, prepared: Prepared) -> None:
    name = key.encode()
    state = {f.name: getattr(prepared, f.name) for f in fields(prepared) if f.name != "weights"}
    plan = pickle.dumps(state, pickle.HIGHEST_PROTOCOL)
    weights = prepared.weights.array()
    file.write(_HEAD.pack(_MAGIC, len(name), len(plan), weights.size, _sum(weights)))
    file.write(name + hashlib.sha256(plan).digest() + plan)
    file.seek(-(-file.tell() // _PAGE) * _PAGE)
    file.write(weights.data)


def _read(file: BinaryIO, key: str) -> Prepared | None:
    name = key.encode()
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, name_size, plan_size, size, total = _HEAD.unpack(head)
    if magic != _MAGIC or name_size != len(name) or file.read(name_size) != name:
        return None
    digest, plan = file.read(32), file.read(plan_size)
    if hashlib.sha256(plan).digest() != digest:
        return None
    file.seek(-(-file.tell() // _PAGE) * _PAGE)
    if os.fstat(file.fileno()).st_size - file.tell() != size:
        return None
    weights = WeightMemory(size)
    if _fill(weights.array(), file.fileno(), file.tell()) != total:
        return None
    return Prepared(weights=weights, **pickle.loads(plan))


def _fill(memory: Bytes, descriptor: int, start: int) -> int:
    """Read `memory` from a file by two threads; sum of what was read."""

    def read(at: int) -> int:
        part = memory[at : at + _CHUNK]
        if os.preadv(descriptor, [part.data], start + at) != part.size:
            return 0
        return _sum(part)

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(read, range(0, memory.size, _CHUNK))) % (1 << 64)


def _sum(weights: Bytes) -> int:
    """Sum of 8-byte words: finds what was never written, at the speed of memory."""
    return int(weights.view(np.uint64).sum(dtype=np.uint64))


def renamed(prepared: Prepared, name: str) -> Prepared:
    """The same model under the name of the file that it was loaded from."""
    return replace(prepared, name=name, explanation=replace(prepared.explanation, model=name))
