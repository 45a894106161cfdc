"""Recordings as arrays."""

import wave
from pathlib import Path

import numpy as np

from examples.real_input.case import Array

RATE = 16_000


def waveform(path: Path, seconds: float | None) -> Array:
    """Samples of a 16 kHz mono recording, -1..1; `seconds` of it, None for all."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        count = file.getnframes() if seconds is None else int(seconds * RATE)
        frames = file.readframes(count)
    return np.frombuffer(frames, "<i2").astype(np.float32) / np.float32(32768)
