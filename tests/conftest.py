"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def models_folder() -> Path:
    """Folder of the trained models that tests read; see `PACKHORSE_MODELS` in the README."""
    return Path(os.environ.get("PACKHORSE_MODELS", ROOT.parent / "shared" / "models"))


@pytest.fixture(scope="session")
def models() -> Path:
    folder = models_folder()
    if not folder.is_dir():
        pytest.skip(f"no trained models at {folder}; set PACKHORSE_MODELS")
    return folder
