"""Memory that was freed leaves the process, but for little."""

import os
import subprocess
import sys

import pytest

CHURN = """
import sys
import numpy as np
from benchmarks.machine import resident_bytes
from engine.allocator import keep_little
done = keep_little() if sys.argv[1] == "little" else None
np.ones(31 << 20, np.uint8)
before = resident_bytes()
arrays = [np.ones(1 << 19, np.uint8) for _ in range(80)]
del arrays
print(done, (resident_bytes() - before) >> 20)
"""


def churn(how: str, **environment: str) -> tuple[str, int]:
    command = [sys.executable, "-c", CHURN, how]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**clean(), **environment}
    )
    outcome, left = done.stdout.split()
    return outcome, int(left)


def clean() -> dict[str, str]:

    return {name: value for name, value in os.environ.items() if "MALLOC" not in name}


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_freed_arrays_leave_the_process() -> None:
    outcome, left = churn("little")
    assert outcome == "True"
    assert left <= 9
    assert churn("as it is")[1] >= 30  # or the test shows nothing


def test_settings_of_the_user_stay() -> None:
    assert churn("little", MALLOC_TRIM_THRESHOLD_="100000000")[0] == "False"
    assert churn("little", GLIBC_TUNABLES="glibc.malloc.check=0")[0] == "False"
