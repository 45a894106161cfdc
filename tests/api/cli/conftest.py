"""Running the command line inside the test process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent.parent


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


Invoke = Callable[..., Finished]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    def run(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = ended.value.code
        return Finished(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def digits() -> Path:
    return ROOT / "examples/digits/digits.onnx"


@pytest.fixture
def seven() -> Path:
    return ROOT / "examples/digits/images/7-a.png"
