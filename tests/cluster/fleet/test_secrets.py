"""Secrets: made once, closed to others, found where they are given."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.fleet.secrets import created, fleet_secret, ray_token, state_folder

pytest.importorskip("zmq", reason="needs packhorse[fleet]")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PACKHORSE_FLEET_SECRET", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_one_is_made_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = fleet_secret()
    assert len(secret) == 64
    assert fleet_secret() == secret
    file = state_folder() / "fleet-secret"
    assert file.stat().st_mode & 0o777 == 0o600
    assert state_folder().stat().st_mode & 0o077 == 0
    assert [path.name for path in state_folder().iterdir()] == ["fleet-secret"]
    monkeypatch.setenv("PACKHORSE_FLEET_SECRET", "from the environment")
    assert fleet_secret() == "from the environment"


def test_files_win_and_must_be_readable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file, twenty characters\n")
    assert fleet_secret(tmp_path / "secret") == "from a file, twenty characters"
    with pytest.raises(ClusterError, match="cannot be read"):
        fleet_secret(tmp_path / "missing")


def test_many_processes_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(created, [tmp_path / "shared"] * 8))
    assert len(set(found)) == 1


def test_rays_token_is_looked_for_where_ray_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ray_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("home\n")
    assert ray_token() == "home"
    (tmp_path / "other").write_text("path\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert ray_token() == "path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert ray_token() == "variable"
