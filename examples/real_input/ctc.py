"""Decoding of connectionist temporal classification: scores per step to text.

The last class is blank. A path of classes stands for the text that is left when repeats are merged
and blanks are dropped (Graves et al. 2006, Connectionist Temporal Classification, section 3).
"""

from collections import defaultdict

import numpy as np

from examples.real_input.case import Array


def greedy(scores: Array, characters: str) -> str:
    """Text of the likeliest path; `scores` has shape [steps, classes] and any scale."""
    best = scores.argmax(1)
    kept = [k for i, k in enumerate(best) if i == 0 or k != best[i - 1]]
    return "".join(characters[k] for k in kept if k < len(characters))


def beam(probabilities: Array, characters: str, width: int = 10) -> str:
    """The likeliest text: all paths of a text count together.

    `probabilities` has shape [steps, classes]; after every step the `width` likeliest beginnings
    are kept, each with the probability of its paths that end in blank and of those that do not
    (prefix beam search: Hannun et al. 2014, arXiv 1408.2873, algorithm 1, without language model).
    """
    blank = len(characters)
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    for step in probabilities.astype(np.float64):
        following: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        likely = np.argsort(step)[-width - 1 :]
        for text, (ended, going) in beams.items():
            following[text][0] += (ended + going) * step[blank]
            if text:
                following[text][1] += going * step[text[-1]]
            for k in likely:
                if k != blank:
                    # A repeated character is a new one only behind a blank.
                    before = ended if text and text[-1] == k else ended + going
                    following[(*text, int(k))][1] += before * step[k]
        best = sorted(following.items(), key=lambda item: sum(item[1]), reverse=True)[:width]
        total = sum(sum(found) for _, found in best) or 1.0
        beams = {text: (ended / total, going / total) for text, (ended, going) in best}
    return "".join(characters[k] for k in max(beams, key=lambda text: sum(beams[text])))


def softmax(logits: Array) -> Array:
    """Probabilities of logits along the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(-1, keepdims=True)
    return probabilities
