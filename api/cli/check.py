"""`packhorse check`: what the engine finds on this machine, and whether it works here."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from api.cli import options, terminal
from api.cli.images import Fit, read_image
from engine import cpu
from engine.codegen.store import CodeStore, default_folder
from engine.errors import EngineError

EXAMPLE_MODEL = Path(__file__).with_name("example.onnx")
EXAMPLE_IMAGE = Path(__file__).with_name("example.png")
EXAMPLE_LABEL = 7
PACKAGES = ("packhorse", "numpy", "llvmlite", "numba", "onnx", "fastapi", "uvicorn")


@dataclass(slots=True)
class Findings:
    """What a check found: rows to show, warnings, and problems; each with what to do."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(threads: options.Threads = None, isa: options.IsaOption = None) -> None:
    """Check the machine and the installation, ending with a real inference.

    Shows CPU features, the AMX permission, usable CPUs and the limits on them, caches and the cache
    folder; says what to fix. The exit code is 1 where something is wrong.
    """
    machine = cpu.machine()
    findings = Findings()
    sections: tuple[Callable[[cpu.Machine, Findings], None], ...] = (
        check_versions,
        check_processor,
        check_limits,
        check_cache_folder,
    )
    for section in sections:
        section(machine, findings)
    _print_rows(findings)
    check_inference(findings, threads, isa)
    for warning in findings.warnings:
        terminal.output.print(f"[yellow]warning:[/] {escape(warning)}")
    for problem in findings.problems:
        terminal.output.print(f"[bold red]problem:[/] {escape(problem)}")
    if findings.problems:
        raise typer.Exit(1)
    terminal.output.print("[bold green]All is well.[/]")


def check_versions(machine: cpu.Machine, findings: Findings) -> None:
    """Versions of what is installed."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            findings.problems.append(f"{name} is not installed; run: pip install packhorse")
    findings.rows.append(("versions", ", ".join(found)))
    findings.rows.append(("system", f"{platform.system()} {platform.release()}"))


def check_processor(machine: cpu.Machine, findings: Findings) -> None:
    """Instruction sets, AMX permission and caches."""
    findings.rows.append(("CPU", f"{machine.model_name}, {machine.architecture}"))
    findings.rows.append(("instruction set", f"{machine.isa} of {', '.join(machine.isas)}"))
    findings.rows.append(("features", " ".join(sorted(machine.features)) or "none known"))
    permission = cpu.request_amx()
    findings.rows.append(("AMX", permission.reason))
    if machine.amx and not permission.granted:
        findings.warnings.append(
            f"AMX: {permission.reason}. Until then, lower-precision modes run on AVX-512."
        )
    if machine.isa == "baseline" and machine.architecture == "x86_64":
        findings.warnings.append(
            "this CPU, or the virtual machine's CPU type, has no AVX2 with FMA: kernels run at "
            "about a quarter of the usual speed; choose a CPU type that passes these flags on"
        )
    caches = [
        f"L{level} {terminal.bytes_text(machine.cache_bytes(level))}{_sharing(machine, level)}"
        for level in (1, 2, 3)
    ]
    findings.rows.append(("caches", ", ".join(caches)))


def _sharing(machine: cpu.Machine, level: int) -> str:
    found = [cache for cache in machine.caches if cache.level == level]
    if not found:
        return " (assumed)"
    sharers = max(len(cache.cpus) for cache in found)
    return f" x{len(found)}" + (f" (each shared by {sharers} CPUs)" if sharers > 1 else "")


def check_limits(machine: cpu.Machine, findings: Findings) -> None:
    """Usable CPUs, what cut them down, and the memory limit."""
    cpus = len(machine.cpus)
    findings.rows.append(("CPUs", f"{cpus} usable on {len(machine.cores)} cores"))
    quota = "none" if machine.quota is None else f"{machine.quota:g} CPUs of time"
    memory = "none" if machine.memory is None else terminal.bytes_text(machine.memory)
    findings.rows.append(("control group limits", f"time {quota}, memory {memory}"))
    findings.rows.append(("threads by default", str(machine.threads)))
    findings.rows.extend(("note", note) for note in machine.notes)
    if machine.quota is not None and machine.quota < 1:
        findings.warnings.append(
            f"the control group allows {machine.quota:g} of one CPU: requests stall whenever it is "
            "used up; raise the container's CPU limit to 1 or more"
        )
    if machine.quota is not None and machine.quota != int(machine.quota) and machine.quota > 1:
        findings.warnings.append(
            f"the control group allows {machine.quota:g} CPUs, and {machine.threads} threads use "
            f"{machine.threads} of them; a whole number wastes nothing"
        )


def check_cache_folder(machine: cpu.Machine, findings: Findings) -> None:
    """Whether compiled code can be kept for the next start."""
    folder = default_folder()
    try:
        store = CodeStore()
    except EngineError as error:
        findings.problems.append(str(error))
        return
    if not os.access(store.folder, os.W_OK | os.X_OK):
        findings.rows.append(("cache folder", f"{folder}, not writable"))
        findings.problems.append(
            f"{folder} cannot be written, so every start compiles again; "
            "set PACKHORSE_CACHE_DIR to a folder that can"
        )
        return
    kept = f"{len(store.entries())} kernels, {terminal.bytes_text(store.size())}"
    findings.rows.append(("cache folder", f"{folder}, {kept}"))


def check_inference(findings: Findings, threads: int | None, isa: cpu.Isa | None) -> None:
    """Loads the example model and classifies a digit with it."""
    begin = time.perf_counter()
    try:
        session = terminal.load(str(EXAMPLE_MODEL.resolve()), threads, isa)
        loaded = time.perf_counter()
        try:
            spec = session.inputs[0]
            image = read_image(EXAMPLE_IMAGE, spec, Fit())
            result = next(iter(session.run({spec.name: image}).values()))
            ran = time.perf_counter()
        finally:
            session.close()
    except EngineError as error:
        findings.problems.append(f"the example model does not run: {error}")
        return
    guess, share = int(result.argmax()), float(result.max())
    terminal.output.print(
        f"Example model: loaded in {(loaded - begin) * 1e3:.0f} ms; a handwritten "
        f"{EXAMPLE_LABEL} is classified as {guess} (probability {share:.3f}) in "
        f"{(ran - loaded) * 1e3:.1f} ms."
    )
    if guess != EXAMPLE_LABEL or not np.isfinite(result).all():
        findings.problems.append(
            f"the example model answers {guess} for a {EXAMPLE_LABEL}: the generated code computes "
            f"wrong values here; clear {default_folder()}, try --isa baseline, and report it"
        )


def _print_rows(findings: Findings) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in findings.rows:
        table.add_row(name, escape(text))
    terminal.output.print(table)
