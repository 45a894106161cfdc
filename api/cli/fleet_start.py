"""Starting a fleet from the command line: what to serve, told as a model or as a fleet's file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.cli import terminal
from api.cli.errors import UsageError
from api.settings import Settings
from cluster.fleet import local
from cluster.fleet.configuration import FleetFile, describe, read_file
from cluster.fleet.local import FleetRecord

BOUNDARIES = ("machine", "socket", "node", "cache", "core")


def described(target: Path, slots: str | None = None, **arguments: Any) -> FleetFile:
    """The fleet of a file, or the one that serves a model, a folder or a repository.

    Arguments that are None stay as the file has them. Raises `UsageError` and `FleetError`.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    if slots is not None:
        given["slots"] = _slots(slots)
    if target.suffix in (".yaml", ".yml"):
        fleet = read_file(target)
        return fleet.with_arguments(**given) if given else fleet
    if not target.exists():
        raise UsageError(f"{target}: no such file or folder")
    return describe(target, **given)


@contextmanager
def fleet_for(settings: Settings) -> Iterator[Settings]:
    """A fleet while the block runs, if the settings want one; yields settings that join it."""
    if not settings.fleet:
        yield settings
        return
    fleet = described(
        settings.repository,
        settings.slots,
        secret_file=str(settings.fleet_secret_file) if settings.fleet_secret_file else None,
        isa=settings.isa,
        precision=settings.precision,
        cache_dir=str(settings.cache_dir) if settings.cache_dir else None,
        refine=settings.refine,
    )
    # The server answers what it has on SIGTERM and then raises it again; by default that would end
    # this process before the fleet.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    record = None
    try:
        record = started(fleet)
        yield settings.model_copy(
            update={
                "fleet": False,
                "directory": record.directory,
                "repository": Path(record.repository),
            }
        )
    finally:
        signal.signal(signal.SIGTERM, before)
        if record is not None:
            ended(record)


def started(fleet: FleetFile, **options: Any) -> FleetRecord:
    """`local.up` with its progress shown."""
    stages = terminal.Stages()
    try:
        record = local.up(fleet, on_step=lambda text: stages.report(text, 0, 0), **options)
    finally:
        stages.close()
    terminal.print_note(
        f"fleet '{record.name}' is up; watch it with: packhorse fleet status --watch, or on Ray's "
        f"dashboard, {record.dashboard}"
        + (f" (its token is in {record.token_file})" if record.token_file else "")
    )
    return record


def ended(record: FleetRecord) -> None:
    """`local.down` with its progress shown."""
    stages = terminal.Stages()
    try:
        local.down(record, on_step=lambda text: stages.report(text, 0, 0))
    finally:
        stages.close()


def gateway_command(record: FleetRecord, host: str, port: int, extra: list[str]) -> list[str]:
    """The command of a gateway that joins the fleet."""
    command = [sys.executable, "-m", "api.cli.main", "serve", record.repository]
    command += ["--directory", record.directory, "--host", host, "--port", str(port)]
    if record.secret_file is not None:
        command += ["--fleet-secret-file", record.secret_file]
    return command + extra


def _slots(text: str) -> str | int:
    if text in BOUNDARIES:
        return text
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise UsageError(f"--slots {text!r}: give a number of slots, or one of {', '.join(BOUNDARIES)}")
