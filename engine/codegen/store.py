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
from pathlib import Path
from typing import Final

from engine.errors import CompileError

_MAGIC: Final = b"packhorse-code-1\n"


def default_folder() -> Path:
    """``$PACKHORSE_CACHE_DIR``, else ``packhorse`` in the user's cache folder."""
    chosen = os.environ.get("PACKHORSE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "packhorse"


class FileStore:
    """Byte-bounded folder of files, safe to share between the processes of one user.

    `limit` is the largest total of bytes; the least recently used files go first.
    """

    suffix = ""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._lock = threading.Lock()
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
        if not self._usable:
            return []
        found = [(p.stat().st_mtime_ns, p) for p in self.folder.glob(f"*{self.suffix}")]
        return [path for _, path in sorted(found)]

    def size(self) -> int:
        """Bytes the entries take."""
        return sum(path.stat().st_size for path in self.entries())

    def clear(self) -> int:
        """Remove every entry; returns how many there were."""
        removed = self.entries()
        for path in removed:
            path.unlink(missing_ok=True)
        return len(removed)

    def _evict(self) -> None:
        with self._lock:
            sizes = [(path, path.stat().st_size) for path in self.entries()]
            excess = sum(size for _, size in sizes) - self.limit
            for path, size in sizes:
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                self.evictions += 1
                excess -= size

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
            os.utime(path)
        return code

    def put(self, key: str, code: bytes) -> None:
        """Keep `code` under `key`; a full disk or read-only folder is not an error."""
        if not self._usable:
            return
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
                file.write(_encode(key, code))
                file.flush()
                os.fsync(file.fileno())
            Path(file.name).replace(self._path(key))
        except OSError:
            return
        self._evict()


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
