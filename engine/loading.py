"""Loading: from a model's file to a session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from engine.plan.options import PlanOptions
from engine.plan.store import renamed
from engine.pool import Pool, link
from engine.precision import Precision, arithmetic
from engine.runtime.gang import usable
from engine.session import Session
from engine.specification import Progress
from engine.tuning import Tuning, read_tuning
from engine.update import Original, identity

Report = Callable[[Progress], None]


def load(
    source: str | Path | bytes,
    threads: int | None = None,
    *,
    isa: str | None = None,
    cache_dir: str | Path | None = None,
    progress: Report | None = None,
    winograd: bool = True,
    tuning: Tuning | None = None,
    throughput: bool = False,
    refine: bool = False,
    precision: str | Precision = "fp32",
) -> Session:
    """Load an ONNX model from a file or its bytes.

    `threads` is the number of threads a run may use (None: what affinity and control groups allow),
    `isa` masks CPU features (``baseline``, ``avx2``, ``avx512``; None: the strongest here),
    `cache_dir` keeps compiled code and prepared models (None: ``PACKHORSE_CACHE_DIR``, else the
    user's cache folder), `progress` is called as loading proceeds, `winograd` admits minimal
    filtering for 3x3 convolutions, which rounds differently, `tuning` holds the constants of
    schedules (None: what ``packhorse tune`` measured here, else the defaults). With `throughput`
    every thread runs rows of a batch, or a caller, of its own instead of sharing each operation
    with the others: more answers per second where batches or callers are many, a longer wait for
    one of a single row; the bytes are the same. With `refine` schedules of the shapes that are
    asked for most are measured while the engine is idle, see `engine.refiner`. `precision` is
    ``fp32``, ``bf16`` or a `Precision` that says for which nodes. Raises ModelError for a model
    that cannot be run, InputError for a precision it cannot have, and CompileError where code
    cannot be generated.
    """

    def report(stage: str, done: int = 0, total: int = 1) -> None:
        if progress is not None:
            progress(Progress(stage, done, total))

    report("reading")
    folder = Path(cache_dir) if cache_dir is not None else None
    pool = Pool.of(isa, folder)
    compiler, workers = pool.compiler, usable(threads)
    count = 1 if throughput else workers
    chosen = precision if isinstance(precision, Precision) else Precision.of(precision)
    options = PlanOptions(
        winograd,
        tuning or read_tuning(compiler.target.name, folder),
        chosen,
        arithmetic(chosen, compiler.target),
    )
    found = identity(source)
    key = pool.plans.key(source, compiler.target, count, options)
    prepared = pool.plans.get(key) if key is not None else None
    if prepared is None:
        # Reading and planning are large imports, which a model from the store does without.
        from engine.preparation import prepare, trim

        # Where nothing is compiled yet, the compiling processes start meanwhile.
        starting = threading.Thread(target=pool.start)
        starting.start()
        try:
            prepared = prepare(source, compiler.target, count, report, options)
        finally:
            starting.join()
        if key is not None:
            named = isinstance(source, str | Path)
            title = "/".join(Path(str(source)).absolute().parts[-3:]) if named else ""
            pool.plans.put(key, prepared, title)
        trim(prepared.weights.size)
    elif isinstance(source, str | Path):
        prepared = renamed(prepared, Path(source).stem)
    link(prepared, compiler, lambda done, total: report("compiling", done, total))
    if prepared.external:
        found = identity(source, prepared.external)
    # What the caller may overwrite is kept as it is now.
    kept = source if isinstance(source, str | Path | bytes) else bytes(source)
    original = Original(kept, compiler.target, count, options, prepared.external, found)
    gang = pool.gang(count)
    session = Session(prepared, pool, gang, original, workers if throughput else 1)
    if refine:
        session.refine()
    compiler.release()
    report("ready", 1, 1)
    return session
