"""Transformer encoders (arXiv 1810.04805) with attention and GELU spelt out as exporters do."""

import numpy as np
import onnx

from benchmarks.models.graph import GraphBuilder
from benchmarks.models.layers import gemm, linear, shape_tensor

VOCABULARY = 30_522
POSITIONS = 512


def bert_base() -> onnx.ModelProto:
    """BERT-base: 12 layers of width 768 with 12 heads, and the pooler.

    ids, mask and types are int64 [batch, length]; outputs hidden [batch, length, 768] and pooled
    [batch, 768]. Head splits take their shape from Shape, Gather and Concat, as traced exports do.
    """
    b, x, penalty = _embeddings("bert_base", 768, 110)
    for _ in range(12):
        x = _layer(b, x, penalty, 768, 12, traced=True)
    first = b.op("Gather", x, b.weight(np.array(0, np.int64), "index"), axis=1)
    b.output("hidden", x, ["batch", "length", 768])
    b.output("pooled", b.op("Tanh", gemm(b, first, (768, 768))), ["batch", 768])
    return b.model()


def encoder() -> onnx.ModelProto:
    """Sentence encoder: 6 layers of width 384 with 12 heads, mean over unmasked tokens.

    ids, mask and types are int64 [batch, length]; output embedding is [batch, 384]. Head splits
    copy batch and length through zeros in a constant Reshape target.
    """
    return _sentence_encoder("encoder", 384, layers=6, heads=12)


def narrow_encoder() -> onnx.ModelProto:
    """As `encoder`, 2 layers of width 64: cheap enough for many thousand requests."""
    return _sentence_encoder("narrow_encoder", 64, layers=2, heads=4)


def _sentence_encoder(name: str, width: int, *, layers: int, heads: int) -> onnx.ModelProto:
    b, x, penalty = _embeddings(name, width, 384)
    for _ in range(layers):
        x = _layer(b, x, penalty, width, heads, traced=False)
    kept = b.op("Cast", "mask", to=onnx.TensorProto.FLOAT)
    kept = b.op("Unsqueeze", kept, b.weight(np.array([2], np.int64), "axes"))
    axes = b.weight(np.array([1], np.int64), "axes")
    total = b.op("ReduceSum", b.op("Mul", x, kept), axes, keepdims=0)
    count = b.op("ReduceSum", kept, axes, keepdims=0)
    b.output("embedding", b.op("Div", total, count), ["batch", width])
    return b.model()


def _embeddings(name: str, width: int, seed: int) -> tuple[GraphBuilder, str, str]:
    b = GraphBuilder(name, seed)
    tokens = [b.input(role, ["batch", "length"], np.int64) for role in ("ids", "mask", "types")]
    words = b.weight(b.gaussian((VOCABULARY, width), 1.0), "words")
    kinds = b.weight(b.gaussian((2, width), 1.0, 0.3), "kinds")
    positions = b.weight(b.gaussian((1, POSITIONS, width), 1.0, 0.5), "positions")
    x = b.op("Add", b.op("Gather", words, tokens[0]), b.op("Gather", kinds, tokens[2]))
    ones = b.weight(np.array([1], np.int64), "ones")
    start = b.weight(np.array([0], np.int64), "start")
    length = shape_tensor(b, tokens[0], "1")
    x = b.op("Add", x, b.op("Slice", positions, start, length, ones, ones))
    x = _layer_norm(b, x, width)

    axes = [b.weight(np.array([axis], np.int64), "axes") for axis in (1, 2)]
    mask = b.op("Unsqueeze", b.op("Unsqueeze", tokens[1], axes[0]), axes[1])
    mask = b.op("Cast", mask, to=onnx.TensorProto.FLOAT)
    mask = b.op("Sub", b.weight(np.array(1.0, np.float32), "one"), mask)
    return b, x, b.op("Mul", mask, b.weight(np.array(-10000.0, np.float32), "minus"))


def _layer(b: GraphBuilder, x: str, penalty: str, width: int, heads: int, *, traced: bool) -> str:
    y = _attention(b, x, penalty, width, heads, traced=traced)
    x = _layer_norm(b, b.op("Add", y, x), width)
    y = linear(b, _gelu(b, linear(b, x, (width, 4 * width))), (4 * width, width))
    return _layer_norm(b, b.op("Add", y, x), width)


def _attention(
    b: GraphBuilder, x: str, penalty: str, width: int, heads: int, *, traced: bool
) -> str:
    size = width // heads

    def reshape(value: str, *tail: int) -> str:
        if traced:
            return b.op("Reshape", value, shape_tensor(b, value, "0", "1", *tail))
        return b.op("Reshape", value, b.weight(np.array([0, 0, *tail], np.int64), "shape"))

    query, key, value = (reshape(linear(b, x, (width, width)), heads, size) for _ in range(3))
    query = b.op("Transpose", query, perm=[0, 2, 1, 3])
    key = b.op("Transpose", key, perm=[0, 2, 3, 1])
    value = b.op("Transpose", value, perm=[0, 2, 1, 3])
    scores = b.op("MatMul", query, key)
    root = b.weight(np.array(np.sqrt(size), np.float32), "root")
    scores = b.op("Add", b.op("Div", scores, root), penalty)
    y = b.op("MatMul", b.op("Softmax", scores, axis=-1), value)
    y = reshape(b.op("Transpose", y, perm=[0, 2, 1, 3]), width)
    return linear(b, y, (width, width))


def _layer_norm(b: GraphBuilder, x: str, width: int) -> str:
    scale = b.weight(b.rng.uniform(0.6, 1.4, width).astype(np.float32), "scale")
    bias = b.weight(b.gaussian((width,), 1.0, 0.1), "bias")
    return b.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)


def _gelu(b: GraphBuilder, x: str) -> str:
    root, one, half = (
        b.weight(np.array(v, np.float32), "constant") for v in (np.sqrt(2.0), 1.0, 0.5)
    )
    erf = b.op("Erf", b.op("Div", x, root))
    return b.op("Mul", b.op("Mul", x, b.op("Add", erf, one)), half)
