"""Tensors that a model keeps in files of their own beside it.

A model file is input from strangers, and the location of its external data is a path that they
chose. A location is therefore followed only to a regular file inside the model's own folder: every
component is opened relative to the one before without following symbolic links, and a file with
more than one hard link is refused, because the other name may lie anywhere. What the tensor claims
(offset, length) is compared with the size of the open file before a byte is mapped.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError

_MAX_DIGITS: Final = 19
"""An offset or length beyond 10**19 exceeds any file system."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ExternalData:
    """The external data files of one model, each mapped once, read only.

    `folder` is the folder of the model file. Arrays that `bytes_of` returns keep their mapping
    alive. A file must not shrink while it is mapped; replace it by renaming a new one over it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: dict[str, NDArray[np.uint8]] = {}

    @property
    def used(self) -> tuple[str, ...]:
        """Locations of the files that were mapped."""
        return tuple(self._mapped)

    def bytes_of(self, entries: Mapping[str, str], expected: int, where: str) -> NDArray[np.uint8]:
        """Bytes of one tensor, without copying.

        `entries` are the key-value pairs of the tensor's ``external_data``, `expected` the bytes
        that its shape and data type ask for, `where` names the tensor in errors. Keys other than
        location, offset and length are not needed and ignored. Raises ModelError.
        """
        location = entries.get("location", "")
        offset = _natural(entries.get("offset", "0"), "offset", where)
        length = _natural(entries.get("length", str(expected)), "length", where)
        if length != expected:
            raise ModelError(
                f"{where}: its external data has {length} bytes, its shape and data type need "
                f"{expected}; export the model again"
            )
        data = self._map(location, where)
        if offset + length > data.size:
            raise ModelError(
                f"{where}: its external data ends at byte {offset + length}, but the file "
                f"{location!r} has {data.size} bytes; the file is truncated or belongs to "
                "another model"
            )
        return data[offset : offset + length]

    def _map(self, location: str, where: str) -> NDArray[np.uint8]:
        if location not in self._mapped:
            handle = self._open(location, where)
            try:
                size = os.fstat(handle).st_size
                if size:
                    mapping = mmap.mmap(handle, size, access=mmap.ACCESS_READ)
                    self._mapped[location] = np.frombuffer(mapping, np.uint8)
                else:
                    self._mapped[location] = np.empty(0, np.uint8)
            finally:
                os.close(handle)
        return self._mapped[location]

    def _open(self, location: str, where: str) -> int:
        """Descriptor of a regular file inside the model's folder."""
        parts = _components(location, where)
        try:
            current = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for index, part in enumerate(parts):
                flags = _FILE if index == len(parts) - 1 else _DIRECTORY
                try:
                    inner = os.open(part, flags, dir_fd=current)
                finally:
                    os.close(current)
                current = inner
        except OSError as error:
            raise ModelError(_reason(error, location, where)) from error
        status = os.fstat(current)
        if not stat.S_ISREG(status.st_mode):
            os.close(current)
            raise ModelError(f"{where}: external data {location!r} is not a regular file")
        if status.st_nlink != 1:
            os.close(current)
            raise ModelError(
                f"{where}: external data {location!r} has {status.st_nlink} hard links and may "
                "lie outside the model's folder; copy the file and replace the link by the copy"
            )
        return current


def _components(location: str, where: str) -> list[str]:
    parts = location.split("/")
    if parts[:1] == ["."]:
        del parts[0]
    unsafe = "\0" in location or "\\" in location or any(p in ("", ".", "..") for p in parts)
    if not parts or unsafe:
        raise ModelError(
            f"{where}: external data location {location[:200]!r} is not a plain path inside the "
            "model's folder; keep the data beside the model file and export again"
        )
    return parts


def _reason(error: OSError, location: str, where: str) -> str:
    shown = repr(location[:200])
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return (
            f"{where}: external data {shown} is or passes through a symbolic link, which is not "
            "followed; copy the data into the model's folder (cp --dereference)"
        )
    if error.errno == errno.ENOENT:
        return f"{where}: external data file {shown} is missing; copy it beside the model file"
    return f"{where}: external data {shown} cannot be opened: {error.strerror}"


def _natural(text: str, key: str, where: str) -> int:
    if len(text) > _MAX_DIGITS or not (text.isascii() and text.isdigit()):
        raise ModelError(f"{where}: external data {key} {text[:40]!r} is not a natural number")
    return int(text)
