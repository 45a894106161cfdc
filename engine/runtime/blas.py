"""Number of threads of the BLAS library inside numpy.

The fallback path computes with numpy, whose matrix products run on a thread pool of OpenBLAS. That
pool would compete with the engine's own threads, and its partition of a product changes results
with the number of cores. numpy's wheels ship OpenBLAS as a library of their own with prefixed
symbols; a numpy built against another BLAS has no such library, and then its own environment
variable (``OMP_NUM_THREADS``, ``MKL_NUM_THREADS``) is the way.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import numpy as np

_SETTERS: Final = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def limit_blas_threads(count: int = 1) -> bool:
    """Let numpy's matrix products use at most `count` threads, in the whole process.

    Returns whether numpy's bundled OpenBLAS was found and told.
    """
    for path in _libraries():
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in _SETTERS:
            setter = getattr(library, name, None)
            if setter is not None:
                setter.argtypes = [ctypes.c_int]
                setter.restype = None
                setter(count)
                return True
    return False


def _libraries() -> list[Path]:
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs", package / ".libs")
    return [path for folder in folders for path in sorted(folder.glob("*openblas*"))]
