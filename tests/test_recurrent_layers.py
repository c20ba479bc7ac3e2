"""Layers: the bits of the functions, from weights that are packed once; streams share them."""

import copy
import pickle

import numpy as np
import pytest
from helpers import DTYPES, GATES, assert_same_bits, function, kind, make_arguments

import rnnkernels
from rnnkernels.kernels.cell import cells

KINDS = {cell: kind(rnnkernels, cell) for cell in GATES}


def make_layer(rng, cell, D, H, dtype):
    x, h0, *weights = make_arguments(rng, GATES[cell], 3, 7, D, H, dtype)
    options = {"bh": rng.standard_normal(3 * H).astype(dtype)} if cells[cell].name == "gru" else {}
    return KINDS[cell](*weights, **options), x, h0, weights, options


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(5, 9), (1, 1), (40, 70)])
@pytest.mark.parametrize("cell", KINDS)
def test_layer__has_the_bits_of_the_functions(rng, cell, sizes, dtype):
    layer, x, h0, weights, options = make_layer(rng, cell, *sizes, dtype)
    result = layer.forward(x, h0)
    expected = function(rnnkernels, cell, "forward")(x, h0, *weights, **options)
    assert_same_bits(result.h, expected.h)
    for got, want in zip(result.state, expected.state, strict=True):
        assert_same_bits(got, want)
    assert_same_bits(layer.forward(x, h0, keep_cache=False).h, expected.h)
    dh = rng.standard_normal(result.h.shape).astype(dtype)
    gradients = function(rnnkernels, cell, "backward")(dh, expected.cache, dstate=result.state)
    found = layer.backward(dh, result.cache, dstate=result.state)
    dx, named = found
    assert list(named) == list(layer.parameters)
    for got, want in zip((dx, found.dh0, *named.values()), gradients, strict=False):
        assert_same_bits(got, want)
    if cells[cell].name == "gru":
        assert_same_bits(named["bh"], gradients.dbh)
    if cell == "lstm":
        assert_same_bits(found.dc0, gradients.dc0)


@pytest.mark.parametrize("cell", KINDS)
def test_layer__steps_and_streams_have_the_bits_of_the_whole(rng, cell):
    layer, x, h0, *_ = make_layer(rng, cell, 5, 19, np.float32)
    want = layer.forward(x, h0).h
    state = type(layer.forward(x).state)(h0, *[np.zeros_like(h0)] * (cell == "lstm"))
    streams = [layer.stream(h0) for _ in range(2)]
    for t in range(x.shape[1]):
        state = layer.step(x[:, t], state)
        assert_same_bits(state.h, want[:, t])
        for stream in streams:
            assert_same_bits(stream.step(x[:, t]), want[:, t])
    assert np.shares_memory(streams[0]._weights, streams[1]._weights)


@pytest.mark.parametrize("cell", KINDS)
def test_stream__begins_anew_in_some_rows(rng, cell):
    layer, x, h0, *_ = make_layer(rng, cell, 5, 19, np.float32)
    stream = layer.stream(batch_size=3)
    stream.steps(x)
    before = stream.h
    mask = np.array([True, False, True])
    stream.reset(rows=mask)
    assert not stream.h[mask].any()
    assert_same_bits(stream.h[1], before[1])
    stream.reset(h0, rows=~mask)
    assert_same_bits(stream.h[1], h0[1])
    assert not stream.h[mask].any()
    with pytest.raises(TypeError, match="`rows` must be of booleans"):
        stream.reset(rows=[0, 2])
    with pytest.raises(ValueError, match=r"`rows` must have shape \(N,\) = \(3,\)"):
        stream.reset(rows=[True])


@pytest.mark.parametrize("cell", KINDS)
def test_parameters__are_the_weights_and_are_replaced_by_name(rng, cell):
    layer, x, h0, weights, options = make_layer(rng, cell, 5, 37, np.float64)
    given = dict(zip(("Wx", "Wh", "b"), weights, strict=True)) | options
    for name, values in layer.parameters.items():
        assert_same_bits(values, given[name])
        assert not values.flags.writeable
    h, cache = layer.forward(x, h0)
    expected = layer.backward(h, cache)
    layer.replace(Wh=given["Wh"] * 0.5)
    assert_same_bits(layer.parameters["Wh"], given["Wh"] * 0.5)
    assert (layer.forward(x, h0).h != h).any()
    for got, want in zip(layer.backward(h, cache).gradients.values(), expected.gradients.values(), strict=True):
        assert_same_bits(got, want)  # of the weights that the cache belongs to
    with pytest.raises(ValueError, match="`Wy` is no parameter of this layer; it has Wx, Wh, b"):
        layer.replace(Wy=1)
    with pytest.raises(ValueError, match="`Wx` must have shape"):
        layer.replace(Wx=np.ones((5, 3)))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("cell", KINDS)
def test_copy__of_a_layer_is_the_same_layer(rng, cell, duplicate):
    layer, x, h0, *_ = make_layer(rng, cell, 5, 9, np.float32)
    other = duplicate(layer)
    assert repr(other) == repr(layer)
    assert_same_bits(other.forward(x, h0).h, layer.forward(x, h0).h)


@pytest.mark.parametrize("cell", KINDS)
def test_create__makes_a_layer_of_random_weights(rng, cell):
    create = getattr(rnnkernels, cells[cell].name.upper()).create
    layer = create(3, 16, rng=rng, **dict(cells[cell].options))
    assert layer.dtype == np.float32
    assert {name: len(values) for name, values in layer.parameters.items()}["Wx"] == 3
    assert all(0 < np.abs(values).max() <= 0.25 for values in layer.parameters.values())
    with pytest.raises(ValueError, match="`H` must be at least 1"):
        create(3, 0)


def test_layer__computes_in_its_own_dtype(rng):
    layer, x, h0, *_ = make_layer(rng, "lstm", 5, 9, np.float32)
    assert_same_bits(layer.forward(x.astype(np.float64), h0.astype(np.float64)).h, layer.forward(x, h0).h)


@pytest.mark.parametrize("cell", GATES)
def test_cache__that_was_tampered_with_is_refused(rng, cell):
    forward, backward = (function(rnnkernels, cell, way) for way in ("forward", "backward"))
    h, cache = forward(*make_arguments(rng, GATES[cell], 2, 3, 4, 5, np.float32))
    longer = np.zeros((2, 9, 4), np.float32)
    for change in (
        {"x": longer},
        {"track": cache.track[:-1]},
        {"Wx": cache.Wx[:-1]},
        {"track": np.asfortranarray(cache.track)},
        {"h0": cache.h0.astype(np.float64)},
        {"x": None},
    ):
        with pytest.raises(ValueError, match=rf"`cache` must be as {cells[cell].name}_forward left it"):
            backward(h, cache._replace(**change))
    cache.x.resize((2, 1, 4), refcheck=False)
    with pytest.raises(ValueError, match="`cache` must be as"):
        backward(h, cache)


@pytest.mark.parametrize("cell", GATES)
def test_cache__in_a_pickle_has_the_natural_order_and_serves_again(rng, cell):
    forward, backward = (function(rnnkernels, cell, way) for way in ("forward", "backward"))
    h, cache = forward(*make_arguments(rng, GATES[cell], 2, 3, 4, 5, np.float32))
    _, arguments, _ = cache.__reduce__()
    assert arguments[5].shape == (3, 2, len(cache.cell.tape), 5)
    for got, want in zip(backward(h, pickle.loads(pickle.dumps(cache))), backward(h, cache), strict=True):
        assert_same_bits(got, want)


def test_steps__into_memory_that_overlaps_the_input_are_right(rng):
    layer, x, _, *_ = make_layer(rng, "lstm", 9, 9, np.float32)
    x = x[:1, :6].copy()
    want = layer.forward(x).h
    buffer = np.zeros((1, 7, 9), np.float32)
    buffer[:, :6] = x
    layer.stream().steps(buffer[:, :6], out=buffer[:, 1:])
    assert_same_bits(buffer[:, 1:], want)


@pytest.mark.parametrize(
    ("cell", "options", "told"),
    [
        ("LSTM", {}, ""),
        ("LSTM", {"cell_clip": 2.0}, "cell_clip=2.0, "),
        ("LSTM", {"coupled": True, "projection": 2}, "P=2, coupled=True, "),
        ("GRU", {"reset_after": False}, "reset_after=False, "),
        ("RNN", {"activation": "relu", "num_layers": 2}, "activation='relu', num_layers=2, "),
    ],
)
def test_repr__tells_which_variant_it_is(cell, options, told):
    layer = getattr(rnnkernels, cell).create(3, 4, **options)
    assert repr(layer) == f"{cell}(D=3, H=4, {told}dtype=float32)"


@pytest.mark.parametrize("N", [1, 2, 3])
@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
def test_step__names_a_state_that_is_not_one_of_the_cell(rng, cell, N):
    layer = getattr(rnnkernels, cell).create(3, 4, rng=rng)
    x, h = np.ones((N, 3), np.float32), np.full((N, 4), 0.5, np.float32)
    wrong = [(h,), (h, h, h), h, 5] if cell == "LSTM" else [(h, h), (h, np.zeros((1, 1)))]
    for state in wrong:
        with pytest.raises(ValueError, match="`state` must be a tuple"):
            layer.step(x, state)
    if cell == "LSTM":
        assert_same_bits(layer.step(x, [h, h]).c, layer.step(x, (h, h)).c)
    else:
        assert_same_bits(layer.step(x, h).h, layer.step(x, (h,)).h)
        assert_same_bits(layer.step(x, h.tolist()).h, layer.step(x, h).h)


def test_replace__keeps_the_dtype(rng):
    layer = rnnkernels.GRU.create(3, 4, rng=rng)
    layer.replace(b=[0] * 12, Wx=layer.parameters["Wx"] - np.float64(0.1))
    assert layer.dtype == np.float32
    assert layer.forward(np.ones((1, 2, 3))).h.dtype == np.float32


@pytest.mark.parametrize("clip", [np.float32(5), np.int64(5), 5, 1e300, 10**400])
def test_save__takes_any_number_as_a_clip(rng, tmp_path, clip):
    pytest.importorskip("safetensors")
    layer = rnnkernels.LSTM.create(3, 4, cell_clip=clip, clip=clip, rng=rng)
    layer.save(tmp_path / "layer.safetensors")
    x = np.ones((1, 2, 3), np.float32)
    assert_same_bits(rnnkernels.LSTM.load(tmp_path / "layer.safetensors").forward(x).h, layer.forward(x).h)
    assert_same_bits(layer.stream().steps(x), layer.forward(x).h)
