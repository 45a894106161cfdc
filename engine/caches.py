"""The stores on disk as a whole: what they hold, emptying them, moving them into an image.

What a store holds is executed, so an archive is as trustworthy as the program that made it: it is
meant for images that one builds oneself. Entries are checked for damage when they are read, not
for malice.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from engine.codegen.store import CodeStore, FileStore, default_folder
from engine.errors import EngineError
from engine.plan.store import PlanStore
from engine.refined import RefinedStore
from engine.tuning import ScheduleStore

StoreName = Literal["code", "plans", "schedules", "refined"]

_MEMBER: Final = re.compile(r"(code|plans|schedules|refined)/([0-9a-f]{64}\.(?:code|plan|json))")
_THREADS: Final = re.compile(r"^threads (\d+)", re.M)
_TARGET: Final = re.compile(r"^(\S+) \S+-\S+-\S+ ", re.M)
"""The line of a key that tells instruction set, triple, CPU and features."""


@dataclass(frozen=True)
class CacheEntry:
    """One entry: its store, what it is, its size in bytes and the time it was last used, in s."""

    store: StoreName
    title: str
    isa: str
    size: int
    used_s: float


@dataclass(frozen=True)
class StoreSummary:
    """One store: entries, their bytes, and the most bytes it may take."""

    store: StoreName
    folder: Path
    entries: int
    size: int
    limit: int


class Caches:
    """The stores of code, of prepared models and of measured schedules in one folder.

    Raises CompileError where the folder belongs to somebody else.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._stores: Mapping[StoreName, FileStore] = {
            "code": CodeStore(self.folder),
            "plans": PlanStore(self.folder),
            "schedules": ScheduleStore(self.folder),
            "refined": RefinedStore(self.folder),
        }

    def entries(self) -> list[CacheEntry]:
        """Every readable entry, the most recently used first."""
        found = []
        for name, store in self._stores.items():
            for entry in store.listing():
                label = store.label(entry.path)
                if label is not None:
                    isa = _TARGET.search(label[0])
                    found.append(
                        CacheEntry(
                            name,
                            label[1] + _threads(label[0]),
                            isa[1] if isa else "",
                            entry.size,
                            entry.used_ns / 1e9,
                        )
                    )
        return sorted(found, key=lambda entry: -entry.used_s)

    def summaries(self) -> list[StoreSummary]:
        """One line per store."""
        return [
            StoreSummary(name, store.folder, len(store.entries()), store.size(), store.limit)
            for name, store in self._stores.items()
        ]

    def clear(self) -> int:
        """Remove everything; number of entries that went. Processes that run keep their code."""
        return sum(store.clear() for store in self._stores.values())

    def pack(self, archive: Path) -> int:
        """Write every entry into a tar file; returns how many there were."""
        count = 0
        with tarfile.open(archive, "w") as tar:
            for name, path in self._files():
                try:
                    content = path.read_bytes()
                except FileNotFoundError:  # evicted meanwhile
                    continue
                member = tarfile.TarInfo(f"{name}/{path.name}")
                member.size, member.mode = len(content), 0o600
                tar.addfile(member, io.BytesIO(content))
                count += 1
        return count

    def _files(self) -> Iterator[tuple[StoreName, Path]]:
        for name, store in self._stores.items():
            for path in store.entries():
                yield name, path

    def unpack(self, archive: Path) -> int:
        """Take over every entry of an archive made by `pack`; returns how many there were.

        Raises EngineError for a file that is no such archive, names a torn entry, or does not fit.
        """
        count = 0
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in tar:
                    self._take(tar, member, archive)
                    count += 1
        except tarfile.TarError as error:
            raise EngineError(
                f"{archive}: not an archive made by `packhorse cache export`"
            ) from error
        return count

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path) -> None:
        match = _MEMBER.fullmatch(member.name)
        file = tar.extractfile(member) if match and member.isreg() else None
        if match is None or file is None:
            raise EngineError(f"{archive}: {member.name!r} is not an entry of a cache")
        store = next(store for name, store in self._stores.items() if name == match[1])
        if member.size > store.limit:
            raise EngineError(f"{archive}: {member.name} is larger than the store may become")
        if not store.adopt(match[2], file.read()):
            raise EngineError(
                f"{archive}: {member.name} is damaged, or {store.folder} cannot be written; "
                "export it again, or set PACKHORSE_CACHE_DIR to a folder that can be written"
            )


def _threads(key: str) -> str:
    """For how many threads a model was prepared; nothing for a kernel."""
    match = _THREADS.search(key)
    return f", {match[1]} {'thread' if match[1] == '1' else 'threads'}" if match else ""
