"""Rules of operators on strings."""

from __future__ import annotations

from engine.graph.inference.context import Inference
from engine.graph.inference.registry import rule


@rule("StringNormalizer")
def _string_normalizer(node: Inference) -> None:
    shape = node.shape(0)
    if not node.attribute("stopwords"):
        node.same_shape()
    else:
        # Words may be dropped, but one empty string is left at least.
        node.output(0, (*shape[:-1], node.fresh(0, len(shape) - 1)))


@rule("StringSplit")
def _string_split(node: Inference) -> None:
    shape = node.shape(0)
    node.output(0, (*shape, node.fresh(0, len(shape))))
    node.output(1, shape)


@rule("RegexFullMatch")
def _regex_match(node: Inference) -> None:
    node.same_shape()


@rule("TfIdfVectorizer")
def _tf_idf(node: Inference) -> None:
    shape = node.shape(0)
    node.rank(0, 1, 2)
    node.output(0, (*shape[:-1], max(node.attribute("ngram_indexes")) + 1))


@rule("ImageDecoder")
def _image_decoder(node: Inference) -> None:
    channels = 1 if node.attribute("pixel_format", "RGB") == "Grayscale" else 3
    node.output(0, (node.fresh(0, 0), node.fresh(0, 1), channels))
