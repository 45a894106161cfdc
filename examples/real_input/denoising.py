"""Speech freed of noise by two streaming networks (DTLN), block by block.

The first network masks the spectrum of a block, the second filters the block itself; each hands its
state on to the next block. Blocks of 512 samples overlap by three quarters and are added up
(Westhausen and Meyer 2020, Dual-Signal Transformation LSTM Network, section 2).
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from examples.real_input.case import Array, Case, Open, Outcome, Run
from examples.real_input.servers import oracle_run
from examples.real_input.sound import waveform

BLOCK, SHIFT = 512, 128
MODELS = ("dtln/model_1.onnx", "dtln/model_2.onnx")


def denoise(mask: Run, filter_: Run, samples: Array) -> Array:
    """Samples of the speech alone, as many as whole blocks take."""
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(2)]
    heard, said = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.float32)
    found = np.zeros_like(samples)
    for start in range(0, len(samples) - BLOCK + 1, SHIFT):
        heard = np.concatenate([heard[SHIFT:], samples[start : start + SHIFT]])
        spectrum = np.fft.rfft(heard)
        size = np.abs(spectrum).astype(np.float32)[None, None]
        answer = mask({"input_2": size, "input_3": states[0]})
        states[0] = answer["tf_op_layer_stack_2"]
        masked = np.fft.irfft(answer["activation_2"][0, 0] * spectrum).astype(np.float32)
        answer = filter_({"input_4": masked[None, None], "input_5": states[1]})
        states[1] = answer["tf_op_layer_stack_5"]
        said = np.concatenate([said[SHIFT:], np.zeros(SHIFT, np.float32)])
        said += answer["conv1d_3"][0, 0]
        found[start : start + SHIFT] = said[:SHIFT]
    return found


def loudness(samples: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def dtln(models: Path, open_: Open) -> Outcome:
    """A noisy recording; the result correlates with what onnxruntime makes of it."""
    samples = waveform(models / "dtln/inputs/mix.wav", None)
    found = denoise(open_(MODELS[0]), open_(MODELS[1]), samples)
    with ExitStack() as stack:
        peers = [stack.enter_context(oracle_run(models / model)) for model in MODELS]
        wanted = denoise(peers[0], peers[1], samples)
    correlation = float(np.corrcoef(found, wanted)[0, 1])
    quieter = round(loudness(found), 4), round(loudness(samples), 4)
    figure = f"correlation {correlation:.4f}, rms {quieter[1]} to {quieter[0]}"
    return Outcome(figure, "0.99, 0.085 to 0.0658", correlation >= 0.99 and quieter[0] == 0.0658)


CASES = (Case("dtln", dtln),)
