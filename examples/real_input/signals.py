"""Signals over time: voice activity in speech, forecasts of a series."""

from pathlib import Path

import numpy as np

from examples.real_input.case import Array, Case, Open, Outcome, Run
from examples.real_input.sound import RATE, waveform

SAMPLES, CONTEXT = 512, 64
RECORDINGS = {"test.wav": (20.0, 0.705), "1272-141231-0002.wav": (None, 0.800)}
"""Seconds to listen to (None: all) and the share of speech that the model hears there."""


def speech_share(run: Run, samples: Array) -> float:
    """Share of the windows of 32 ms, but the last, that hold speech; the state travels along."""
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros(CONTEXT, np.float32)
    heard = []
    for start in range(0, len(samples) - SAMPLES, SAMPLES):
        window = np.concatenate([context, samples[start : start + SAMPLES]])
        answer = run({"input": window[None], "state": state, "sr": np.array(RATE, np.int64)})
        state, context = answer["stateN"], window[-CONTEXT:]
        heard.append(float(answer["output"][0, 0]) > 0.5)
    return float(np.mean(heard))


def silero(model: str) -> Case:
    """Voice activity of two recordings, window by window."""

    def solve(models: Path, open_: Open) -> Outcome:
        run = open_(f"silero_vad/{model}.onnx")
        shares, targets = [], []
        for name, (seconds, expected) in RECORDINGS.items():
            samples = waveform(models / "silero_vad/inputs" / name, seconds)
            shares.append(round(speech_share(run, samples), 3))
            targets.append(expected)
        return Outcome(
            "speech " + ", ".join(f"{share:.3f}" for share in shares),
            ", ".join(f"{share:.3f}" for share in targets),
            shares == targets,
        )

    return Case(model, solve)


def tiny_time_mixer(models: Path, open_: Open) -> Outcome:
    """Seven hourly series with daily and weekly rhythm: 512 hours in, 96 hours forecast."""
    run = open_("tiny_time_mixer/TinyTimeMixer.onnx")
    random = np.random.default_rng(1)
    hours = np.arange(512 + 96)[:, None]
    phase, daily, weekly = (
        random.uniform(low, high, 7) for low, high in ((0, 6), (2, 5), (0, 0.5))
    )
    series = (
        10
        + daily * np.sin(2 * np.pi * hours / 24 + phase)
        + weekly * np.sin(2 * np.pi * hours / 168 + phase)
        + random.normal(0, 0.3, (len(hours), 7))
    ).astype(np.float32)
    batch = np.stack([series[:512], series[:512] * np.float32(0.5) + 3])
    forecast = run({"past_values": batch})["prediction_outputs"]
    truth = series[512:]
    error = float(np.mean((forecast[0] - truth) ** 2) / truth.var(0).mean())
    return Outcome(f"squared error {error:.1%} of the variance", "under 10%", 0 <= error < 0.1)


CASES = (
    silero("silero_vad"),
    silero("silero_vad_16k_op15"),
    Case("tiny_time_mixer", tiny_time_mixer),
)
