import numpy as np
import onnxruntime
import pytest
import typer

from benchmarks import dot
from benchmarks.flops import FlopCounter
from benchmarks.roofline import QUICK, Meter


def test_layers_are_what_their_names_say():
    layer = dot.product(5, 7, 11)
    assert layer.name == "5x7x11"
    assert layer.flops == FlopCounter(layer.model).count({"m": 5})
    layer = dot.convolution(2, 9, 8, 3, 4, 3, 2)
    assert layer.flops == FlopCounter(layer.model).count({"n": 2, "h": 9, "w_": 8})
    session = onnxruntime.InferenceSession(layer.model.SerializeToString())
    (found,) = session.run(None, {"x": layer.x})
    assert found.shape == (2, 4, 5, 4)
    assert np.isfinite(found).all()


def test_sizes_are_integers_joined_by_x():
    assert dot._sizes("2x3x4,5x6x7", 3, ()) == [(2, 3, 4), (5, 6, 7)]
    assert dot._sizes("", 3, dot.PRODUCTS) == []
    assert dot._sizes(None, 3, dot.PRODUCTS) == list(dot.PRODUCTS)
    with pytest.raises(typer.BadParameter, match="3 integers"):
        dot._sizes("2x3", 3, ())


def test_a_layer_is_timed_against_its_peer(tmp_path):
    layer = dot.product(4, 32, 16)
    speeds = dot.measure(layer, 1, None, 1, tmp_path, Meter(QUICK))
    assert 0 < speeds.kernel <= speeds.ours
    assert speeds.peer > 0
    assert speeds.peak > 0
