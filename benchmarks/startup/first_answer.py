"""The measured process: load a model, answer once, print the time of the answer.

`python -m benchmarks.startup.first_answer ENGINE MODEL INPUTS THREADS [CACHE_DIR]`. Imports nothing
beyond what the engine needs; ENGINE "none" stops after reading the inputs.
"""

import sys
import time
from pathlib import Path

import numpy as np


def main(arguments: list[str]) -> None:
    """Print CLOCK_MONOTONIC in nanoseconds, which every process of the machine shares."""
    name, model, inputs, threads, *cache = arguments
    with np.load(inputs) as archive:
        arrays = dict(archive)
    if name != "none":
        from benchmarks.engines import EngineSetup, load

        setup = EngineSetup(name, int(threads), cache_dir=cache[0] if cache else None)
        load(Path(model), setup).run(arrays)
    print(f"answered {time.monotonic_ns()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
