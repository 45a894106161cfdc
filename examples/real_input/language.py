"""Bytes and sentences: file types, sentence similarity."""

import json
from pathlib import Path

import numpy as np

from examples.real_input.case import Array, Case, Open, Outcome, Run


def magika_input(content: bytes, config: dict[str, int]) -> Array:
    """The model's input [1, 2048] int32: first and last bytes, white space stripped, padded."""
    block, begin, end = config["block_size"], config["beg_size"], config["end_size"]
    first = content[:block].lstrip()[:begin]
    last = content[-block:].rstrip()[-end:]
    tokens = np.full(begin + end, config["padding_token"], np.int32)
    tokens[: len(first)] = np.frombuffer(first, np.uint8)
    tokens[len(tokens) - len(last) :] = np.frombuffer(last, np.uint8)
    return tokens[None]


def magika(models: Path, open_: Open) -> Outcome:
    """The type of every sample file; its folder is the answer. Alone, and all as one batch."""
    folder = models / "magika_v3_3"
    config = json.loads((folder / "config.min.json").read_text())
    labels, renamed = config["target_labels_space"], config["overwrite_map"]
    paths = [path for path in sorted(folder.glob("inputs/*/*")) if path.is_file()]
    # The model is not asked about files of fewer bytes than this.
    paths = [path for path in paths if path.stat().st_size >= config["min_file_size_for_dl"]]
    run = open_("magika_v3_3/model.onnx")
    rows = [magika_input(path.read_bytes(), config) for path in paths]
    alone = [int(run({"bytes": row})["target_label"].argmax()) for row in rows]
    batch = run({"bytes": np.concatenate(rows)})["target_label"].argmax(1)
    right = 0
    for path, guess, other in zip(paths, alone, batch, strict=True):
        label = labels[guess]
        right += renamed.get(label, label) == path.parent.name and guess == other
    return Outcome(f"{right}/{len(paths)} files", "all", right == len(paths))


def minilm(models: Path, open_: Open) -> Outcome:
    """Cosines between seven sentences, padded into one batch and each at its own length."""
    from tokenizers import Tokenizer

    folder = models / "minilm_l6"
    stored = json.loads((folder / "similarity.json").read_text())
    expected = np.array(stored["cosine"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    run = open_("minilm_l6/model.onnx")
    alone = [_embeddings([tokenizer.encode(text).ids], run)[0] for text in stored["sentences"]]
    batch = _embeddings([tokenizer.encode(text).ids for text in stored["sentences"]], run)
    worst = max(
        float(np.abs(vectors @ vectors.T - expected).max()) for vectors in (np.array(alone), batch)
    )
    return Outcome(f"cosines within {worst:.1e}", "1e-3", worst <= 1e-3)


def _embeddings(sentences: list[list[int]], run: Run) -> Array:
    """Mean of the token vectors of each sentence, normalised to length 1."""
    length = max(map(len, sentences))
    ids = np.array([ids + [0] * (length - len(ids)) for ids in sentences], np.int64)
    mask = np.array([[1] * len(x) + [0] * (length - len(x)) for x in sentences], np.int64)
    tokens = run({"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[
        "last_hidden_state"
    ]
    means = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    vectors: Array = means / lengths
    return vectors


CASES = (Case("magika_v3_3", magika), Case("minilm_l6", minilm))
