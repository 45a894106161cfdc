"""Where a fleet's shared secret and Ray's token come from."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cluster.errors import FleetError


def state_folder() -> Path:
    """The folder of this user in which fleets keep their state; made closed to others."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    folder = Path(base) / "packhorse"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FleetError(
            f"{folder}: {error.strerror}; name another folder with XDG_STATE_HOME"
        ) from None
    return folder


def fleet_secret(path: str | Path | None = None) -> str:
    """The fleet's secret: of the file, else of the environment, else of this user's own file.

    The last is made at first use: on one machine nothing has to be handed out. Machines of one
    fleet must be given the same. Raises `FleetError` or `ChannelError`.
    """
    from cluster.channel.security import VARIABLE, read_secret  # needs the extra `fleet`

    if path is not None or os.environ.get(VARIABLE):
        return read_secret(Path(path).expanduser() if path is not None else None) or ""
    return created(state_folder() / "fleet-secret")


def ray_token() -> str | None:
    """The token of Ray's dashboard, from where Ray itself looks for it; None without one."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        default = Path.home() / ".ray" / "auth_token"
        return (Path(path) if path else default).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def created(path: Path) -> str:
    """The secret in a file of this user, made with random content where there is none."""
    with suppress(FileExistsError):
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            draft.unlink()
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, secrets.token_hex(32).encode())
        finally:
            os.close(file)
        try:
            # A link, unlike a rename, leaves what another process has made meanwhile.
            os.link(draft, path)
        finally:
            draft.unlink()
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}") from None
