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
from engine.plan.options import PLAIN, PlanOptions
from engine.plan.prepared import Prepared
from engine.plan.weights import WeightMemory

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_MAGIC: Final = b"packhorse-plan-2"
_HEAD: Final = struct.Struct("<16sQQQQQ")
"""Magic, bytes of key, of title, of the pickled plan and of weights, sum of the weights' words."""

_PAGE: Final = 4096
_CHUNK: Final = 8 << 20
_LONGEST: Final = 1 << 16
"""Bytes of key and title beyond which something is wrong."""

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
            self._used(path)
        return found

    def put(self, key: str, prepared: Prepared, title: str = "") -> None:
        """Keep a model under `key` where it can be kept; a full disk is not an error.

        `title` is what people are shown instead of the model's name.
        """
        if not self._usable or not prepared.storable:
            return
        if prepared.weights.size > _SHARE_OF_DISK * shutil.disk_usage(self.folder).free:
            return
        with suppress(pickle.PickleError, RecursionError):
            self._write(key, lambda file: _write(file, key, prepared, title))

    def verified(self, content: bytes) -> str | None:
        """Key of an entry whose bytes are whole, else None; what it holds is not unpickled."""
        if len(content) < _HEAD.size:
            return None
        magic, name_size, title_size, plan_size, size, total = _HEAD.unpack_from(content)
        end = _HEAD.size + name_size
        start = end + title_size + 32
        weights = _page(start + plan_size)
        whole = (
            magic == _MAGIC
            and len(content) == weights + size
            and size % 8 == 0
            and hashlib.sha256(content[start : start + plan_size]).digest()
            == content[start - 32 : start]
            and _sum(np.frombuffer(content, np.uint8, size, weights)) == total
        )
        try:
            return content[_HEAD.size : end].decode() if whole else None
        except UnicodeDecodeError:
            return None

    def label(self, path: Path) -> tuple[str, str] | None:
        """Key of an entry, and the name of its model."""
        try:
            with path.open("rb") as file:
                magic, name_size, title_size, *_ = _HEAD.unpack(file.read(_HEAD.size))
                if magic != _MAGIC or name_size + title_size > _LONGEST:
                    return None
                return file.read(name_size).decode(), file.read(title_size).decode()
        except (OSError, struct.error, UnicodeDecodeError):
            return None

    def key(
        self,
        source: str | Path | bytes,
        target: Target,
        threads: int,
        options: PlanOptions = PLAIN,
    ) -> str | None:
        """As `plan_key`, with the digest of a file that was seen before remembered.

        It is remembered by the file's identity: device, inode, size, times of modification and
        change. The kernel sets the latter, so a file of the same identity has the same content,
        unless it was written again in the clock tick of the digest; files that young are digested
        anew.
        """
        if not isinstance(source, str | Path) or not self._usable:
            return plan_key(source, target, threads, options)
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
        return None if digest is None else _key(digest, target, threads, options)

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
    source: str | Path | bytes, target: Target, threads: int, options: PlanOptions = PLAIN
) -> str | None:
    """Key of a model, None where it is not to be kept: small, or no readable file."""
    digest = _digest(source)
    return None if digest is None else _key(digest, target, threads, options)


def _identity(path: str | Path) -> tuple[int, ...]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _remembered(path: Path) -> str | None:
    with suppress(OSError):
        if path.lstat().st_uid == os.geteuid():
            digest = path.read_text()
            return digest if len(digest) == 64 else None
    return None


def _key(digest: str, target: Target, threads: int, options: PlanOptions) -> str:
    parts = (
        f"model {digest}",
        f"engine {_sources()}",
        f"{target.name} {target.triple} {target.cpu} {target.features}",
        f"threads {threads} {options}",
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


def _write(file: Any, key: str, prepared: Prepared, shown: str) -> None:
    name, title = key.encode(), (shown or prepared.name).encode()[:1024]
    state = {f.name: getattr(prepared, f.name) for f in fields(prepared) if f.name != "weights"}
    plan = pickle.dumps(state, pickle.HIGHEST_PROTOCOL)
    weights = prepared.weights.array()
    sizes = len(name), len(title), len(plan), weights.size
    file.write(_HEAD.pack(_MAGIC, *sizes, _sum(weights)))
    file.write(name + title + hashlib.sha256(plan).digest() + plan)
    file.seek(_page(file.tell()))
    file.write(weights.data)


def _page(position: int) -> int:
    """The next multiple of the page size."""
    return -(-position // _PAGE) * _PAGE


def _read(file: BinaryIO, key: str) -> Prepared | None:
    name = key.encode()
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, name_size, title_size, plan_size, size, total = _HEAD.unpack(head)
    if magic != _MAGIC or name_size != len(name) or file.read(name_size) != name:
        return None
    file.seek(title_size, os.SEEK_CUR)
    digest, plan = file.read(32), file.read(plan_size)
    if hashlib.sha256(plan).digest() != digest:
        return None
    file.seek(_page(file.tell()))
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
