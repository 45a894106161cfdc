"""Object code on disk, shared by the processes of one user.

An entry's key is the digest of everything that decides its bytes: kernel, digest of the generators'
sources, target, LLVM version, ABI version. The full key is kept beside the code and compared on
every read. Entries are written to a temporary file and renamed; the folder has mode 0700 and is
refused when another user owns it, because what it holds is executed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Final

from engine.errors import CompileError

_MAGIC: Final = b"packhorse-code-1\n"

_TEMPORARY: Final = "tmp-"
_ABANDONED_NS: Final = 3600 * 10**9
"""A temporary file this old was left behind by a process that died while writing."""

_RESCAN: Final = 64
"""After so many entries of our own, those of other processes are counted too."""


def default_folder() -> Path:
    """``$PACKHORSE_CACHE_DIR``, else ``packhorse`` in the user's cache folder."""
    chosen = os.environ.get("PACKHORSE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "packhorse"


@dataclass(frozen=True)
class StoreEntry:
    """A file of a store: its size in bytes and when it was last used, in ns since 1970."""

    path: Path
    size: int
    used_ns: int


class FileStore(ABC):
    """Byte-bounded folder of files, safe to share between the processes of one user.

    `limit` is the largest total of bytes; the least recently used files go first.
    """

    suffix: ClassVar[str]

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._lock = threading.Lock()
        self._total = 0
        self._until_scan = 0
        self._usable = self._prepare()

    def _prepare(self) -> bool:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.lstat()
        except OSError:
            return False
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise CompileError(
                f"cache {self.folder} is not a folder owned by this user; "
                "set PACKHORSE_CACHE_DIR to one that is"
            )
        if stat.S_IMODE(found.st_mode) & 0o022:
            self.folder.chmod(0o700)
        return True

    def entries(self) -> list[Path]:
        """Files of the store, least recently used first."""
        return [entry.path for entry in self.listing()]

    def listing(self) -> list[StoreEntry]:
        """What the store holds, least recently used first."""
        if not self._usable:
            return []
        found = []
        for path in self.folder.glob(f"*{self.suffix}"):
            with suppress(OSError):  # another process may remove it meanwhile
                status = path.stat()
                found.append(StoreEntry(path, status.st_size, status.st_mtime_ns))
        return sorted(found, key=lambda entry: (entry.used_ns, entry.path.name))

    def size(self) -> int:
        """Bytes the entries take."""
        return sum(entry.size for entry in self.listing())

    def clear(self) -> int:
        """Remove every entry; returns how many there were."""
        removed = self.entries()
        for path in removed:
            path.unlink(missing_ok=True)
        return len(removed)

    @abstractmethod
    def verified(self, content: bytes) -> str | None:
        """Key of an entry whose bytes are whole, else None."""

    @abstractmethod
    def label(self, path: Path) -> tuple[str, str] | None:
        """Key of an entry and its title for people; None where it cannot be read."""

    def adopt(self, name: str, content: bytes) -> bool:
        """Keep an entry of another store of this kind; False if it is torn or misnamed."""
        key = self.verified(content)
        if key is None or self._path(key).name != name:
            return False
        return self._write(key, lambda file: file.write(content))

    def _write(self, key: str, fill: Callable[[BinaryIO], object]) -> bool:
        """Write an entry aside and rename it; a full disk or read-only folder gives False."""
        if not self._usable:
            return False
        aside = None
        try:
            with tempfile.NamedTemporaryFile(
                dir=self.folder, prefix=_TEMPORARY, delete=False
            ) as file:
                aside = Path(file.name)
                fill(file)  # type: ignore[arg-type]  # it wraps a binary file
                file.flush()
                size = os.fstat(file.fileno()).st_size
            aside.replace(self._path(key))
            aside = None
        except OSError:
            return False
        finally:
            if aside is not None:
                aside.unlink(missing_ok=True)
        self._bound(size)
        return True

    def _bound(self, added: int) -> None:
        """Remove the least recently used entries where `added` bytes were too many."""
        with self._lock:
            self._total += added
            self._until_scan -= 1
            if self._until_scan > 0 and self._total <= self.limit:
                return
            self._sweep()
            found = self.listing()
            self._total = sum(entry.size for entry in found)
            for entry in found:
                if self._total <= self.limit:
                    break
                entry.path.unlink(missing_ok=True)
                self.evictions += 1
                self._total -= entry.size
            self._until_scan = _RESCAN

    def _sweep(self) -> None:
        """Remove what processes left behind that died while they wrote."""
        old = time.time_ns() - _ABANDONED_NS
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if path.stat().st_mtime_ns < old:
                    path.unlink()

    def _used(self, path: Path) -> None:
        """Note that an entry was used, where the folder can be written to."""
        with suppress(OSError):
            os.utime(path)

    def _count(self, counter: str) -> None:
        with self._lock:
            setattr(self, counter, getattr(self, counter) + 1)

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}{self.suffix}"


class CodeStore(FileStore):
    """Map from key text to object bytes."""

    suffix = ".code"

    def __init__(self, folder: Path | None = None, limit: int = 256 << 20) -> None:
        super().__init__((folder or default_folder()) / "code", limit)

    def get(self, key: str) -> bytes | None:
        """Object bytes for `key`, or None; a torn or foreign entry counts as absent."""
        if not self._usable:
            return None
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            self._count("misses")
            return None
        with os.fdopen(descriptor, "rb") as file:
            owned = os.fstat(file.fileno()).st_uid == os.geteuid()
            content = file.read() if owned else b""
        code = _decode(content, key)
        self._count("hits" if code is not None else "misses")
        if code is not None:
            self._used(path)
        return code

    def put(self, key: str, code: bytes) -> None:
        """Keep `code` under `key`; a full disk or read-only folder is not an error."""
        self._write(key, lambda file: file.write(_encode(key, code)))

    def verified(self, content: bytes) -> str | None:
        """Key of an entry whose bytes are whole, else None."""
        at = len(_MAGIC) + 8
        if not content.startswith(_MAGIC) or len(content) < at:
            return None
        end = at + int.from_bytes(content[at - 8 : at], "little")
        try:
            key = content[at:end].decode()
        except UnicodeDecodeError:
            return None
        return key if _decode(content, key) is not None else None

    def label(self, path: Path) -> tuple[str, str] | None:
        """Key of an entry, and family and options of its kernel."""
        try:
            key = self.verified(path.read_bytes())
        except OSError:
            return None
        return None if key is None else (key, " ".join(key.split("\n")[:2]))


def _encode(key: str, code: bytes) -> bytes:
    name = key.encode()
    digest = hashlib.sha256(code).digest()
    return b"".join((_MAGIC, len(name).to_bytes(8, "little"), name, digest, code))


def _decode(content: bytes, key: str) -> bytes | None:
    name = key.encode()
    head = _MAGIC + len(name).to_bytes(8, "little") + name
    if not content.startswith(head):
        return None
    digest, code = content[len(head) : len(head) + 32], content[len(head) + 32 :]
    return code if hashlib.sha256(code).digest() == digest else None
