"""LSTMs with peepholes, a clip of the cell state, coupled gates, and all of it: against the reference, and bits."""

import copy
import pickle

import numpy as np
import pytest
from helpers import (
    DTYPES,
    assert_all_close,
    assert_same_bits,
    exact,
    force_packing,
    make_arguments,
    numerical_gradient,
)

import rnnkernels
from rnnkernels import _threads, reference
from rnnkernels._checks.cells import check_peepholes
from rnnkernels.kernels.lstm import PEEPHOLE

VARIANTS = {
    "peepholes": {"peepholes": True},
    "clip": {"cell_clip": 0.3},
    "coupled": {"coupled": True},
    "peepholes and clip": {"peepholes": True, "cell_clip": 0.3},
    "everything": {"peepholes": True, "coupled": True, "cell_clip": 0.3},
}
SIZES = [(3, 2, 2, 1), (2, 3, 4, 5), (5, 4, 16, 15), (7, 9, 5, 17), (13, 30, 9, 41), (1, 40, 2, 24), (14, 6, 4, 70)]

variants = pytest.mark.parametrize("variant", VARIANTS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def make(rng, variant, N, T, D, H, dtype):
    """Arguments, and the options with random peepholes."""
    options = dict(VARIANTS[variant])
    gates = 3 if options.get("coupled") else 4
    arguments = make_arguments(rng, gates, N, T, D, H, dtype)
    if "peepholes" in options:
        options["peepholes"] = (0.5 * rng.standard_normal((gates - 1, H))).astype(dtype)
    return arguments, options


def in_float64(options):
    return {name: exact([value])[0] if isinstance(value, np.ndarray) else value for name, value in options.items()}


@pytest.mark.parametrize("packed", [False, True])
@dtypes
@pytest.mark.parametrize("sizes", SIZES)
@variants
def test_sequence__matches_reference(rng, variant, sizes, dtype, packed, monkeypatch):
    force_packing(monkeypatch, packed)
    N, T, _, H = sizes
    arguments, options = make(rng, variant, *sizes, dtype)
    c0, dh, dc = (rng.standard_normal(shape).astype(dtype) for shape in ((N, H), (N, T, H), (N, H)))
    result = rnnkernels.lstm_forward(*arguments, c0=c0, **options)
    expected = reference.lstm_forward(*exact(arguments), c0=exact([c0])[0], **in_float64(options))
    assert_all_close([result.h, *result.state], [expected.h, *expected.state], dtype)
    assert_all_close([result.cache.c], [np.asarray(expected.cache[6])[:, 1:]], dtype)
    gates = np.split(np.asarray(expected.cache[7]), 4, axis=-1)
    assert_all_close([getattr(result.cache, gate) for gate in "ifog"], gates, dtype)
    got = rnnkernels.lstm_backward(dh, result.cache, dstate=(None, dc))
    want = reference.lstm_backward(exact([dh])[0], expected.cache, dstate=(None, exact([dc])[0]))
    assert_all_close([*got, got.dc0, got.dpeepholes], [*want, want.dc0, want.dpeepholes], dtype)


@dtypes
@variants
def test_step__matches_reference_and_the_sequence(rng, variant, dtype):
    (x, h0, *weights), options = make(rng, variant, 3, 1, 4, 19, dtype)
    c0, dh, dc = (rng.standard_normal((3, 19)).astype(dtype) for _ in range(3))
    arguments = x[:, 0], h0, c0, *weights
    h, c, cache = rnnkernels.lstm_step_forward(*arguments, **options)
    expected_h, expected_c, tape = reference.lstm_step_forward(*exact(arguments), **in_float64(options))
    assert_all_close([h, c], [expected_h, expected_c], dtype)
    got = rnnkernels.lstm_step_backward(dh, dc, cache)
    want = reference.lstm_step_backward(*exact([dh, dc]), tape)
    assert_all_close([*got, got.dpeepholes], [*want, want.dpeepholes], dtype)
    whole = rnnkernels.lstm_forward(x, h0, *weights, c0=c0, **options)
    assert_same_bits(whole.h[:, 0], h)
    assert_same_bits(whole.state.c, c)


@variants
def test_gradients__match_finite_differences(rng, variant):
    arguments, options = make(rng, variant, 2, 4, 3, 5, np.float64)
    c0, dh = 0.1 * rng.standard_normal((2, 5)), rng.standard_normal((2, 4, 5))

    def run():
        return rnnkernels.lstm_forward(*arguments, c0=c0, **options).h

    gradients = rnnkernels.lstm_backward(dh, rnnkernels.lstm_forward(*arguments, c0=c0, **options).cache)
    pairs = list(zip([*arguments, c0], [*gradients, gradients.dc0], strict=True))
    if "peepholes" in options:
        pairs.append((options["peepholes"], gradients.dpeepholes))
    for parameter, gradient in pairs:
        np.testing.assert_allclose(gradient, numerical_gradient(run, parameter, dh), rtol=1e-6, atol=1e-8)


def test_clip__holds_the_cell_state(rng):
    (x, h0, *weights), _ = make(rng, "clip", 3, 9, 4, 5, np.float64)
    result = rnnkernels.lstm_forward(x, h0, 9 * weights[0], *weights[1:], cell_clip=0.25)
    assert np.abs(result.cache.c).max() == 0.25
    assert np.abs(rnnkernels.lstm_forward(x, h0, 9 * weights[0], *weights[1:]).cache.c).max() > 0.25


@variants
def test_bits__depend_on_nothing_but_the_sequence(rng, variant, monkeypatch):
    """Neither on the batch, the threads, the pieces, the cache, nor on packing, lengths and checkpoints."""
    (x, h0, *weights), options = make(rng, variant, 13, 40, 5, 35, np.float32)
    dh = rng.standard_normal((13, 40, 35)).astype(np.float32)
    result = rnnkernels.lstm_forward(x, h0, *weights, **options)
    gradients = rnnkernels.lstm_backward(dh, result.cache)

    def assert_same(other, other_gradients=None):
        assert_same_bits(other.h, result.h)
        assert_same_bits(other.state.c, result.state.c)
        if other_gradients is not None:
            pairs = zip([*other_gradients, other_gradients.dpeepholes], [*gradients, gradients.dpeepholes], strict=True)
            for got, want in pairs:
                assert_same_bits(got, want)

    alone = rnnkernels.lstm_forward(x[4:5], h0[4:5], *weights, **options)
    assert_same_bits(alone.h[0], result.h[4])
    first = rnnkernels.lstm_forward(x[:, :17], h0, *weights, **options)
    rest = rnnkernels.lstm_forward(x[:, 17:], first.state.h, *weights, c0=first.state.c, **options)
    assert_same_bits(np.concatenate([first.h, rest.h], axis=1), result.h)
    assert_same(rnnkernels.lstm_forward(x, h0, *weights, keep_cache=False, **options))
    few = rnnkernels.lstm_forward(x, h0, *weights, checkpoint_every=8, **options)
    assert_same(few, rnnkernels.lstm_backward(dh, few.cache))
    stream = rnnkernels.LSTMStream(*weights, h0, **options)
    assert_same_bits(np.concatenate([stream.steps(x[:, :7]), copy.deepcopy(stream).steps(x[:, 7:])], 1), result.h)
    layer = rnnkernels.LSTM(*weights, **options)
    of_layer = layer.forward(x, h0)
    assert_same(of_layer)
    assert_same_bits(layer.backward(dh, of_layer.cache).gradients["Wh"], gradients.dWh)
    kept = pickle.loads(pickle.dumps(result.cache))
    assert_same(result, rnnkernels.lstm_backward(dh, kept))
    for packed in (True, False):
        force_packing(monkeypatch, packed)
        other = rnnkernels.lstm_forward(x, h0, *weights, **options)
        assert_same(other, rnnkernels.lstm_backward(dh, other.cache))
    monkeypatch.setattr(_threads, "available_threads", lambda: 4)
    for threads in (2, 3):
        other = rnnkernels.lstm_forward(x, h0, *weights, num_threads=threads, **options)
        assert_same(other, rnnkernels.lstm_backward(dh, other.cache, num_threads=threads))


@variants
def test_lengths_and_directions__match_reference(rng, variant):
    (x, h0, *weights), options = make(rng, variant, 4, 7, 3, 18, np.float64)
    dh, lengths, resets = rng.standard_normal((4, 7, 18)), [3, 7, 0, 5], rng.random((4, 7)) < 0.2
    spans = {"lengths": lengths, "reverse": True, "resets": resets}
    result = rnnkernels.lstm_forward(x, h0, *weights, **options, **spans)
    expected = reference.lstm_forward(x, h0, *weights, **options, **spans)
    got, want = rnnkernels.lstm_backward(dh, result.cache), reference.lstm_backward(dh, expected.cache)
    assert_all_close([result.h, *result.state], [expected.h, *expected.state], np.float64)
    assert_all_close([*got, got.dpeepholes], [*want, want.dpeepholes], np.float64)


@variants
def test_layer__has_peepholes_among_its_parameters(rng, variant, tmp_path):
    pytest.importorskip("safetensors")
    options = {name: value for name, value in VARIANTS[variant].items() if name != "peepholes"}
    layer = rnnkernels.LSTM.create(4, 6, num_layers=2, bidirectional=True, rng=rng, **options)
    parameters = layer.parameters
    if "peepholes" in VARIANTS[variant]:
        rows = 2 if options.get("coupled") else 3
        for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
            parameters[f"peepholes{suffix}"] = rng.standard_normal((rows, 6)).astype(np.float32)
        layer = rnnkernels.LSTM.from_parameters(parameters, **options)
    assert layer.parameters.keys() == parameters.keys()
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    h, cache = layer.forward(x)
    _, gradients = layer.backward(np.ones_like(h), cache)
    assert {name: g.shape for name, g in gradients.items()} == {name: p.shape for name, p in parameters.items()}
    layer.save(tmp_path / "layer.safetensors")
    for other in (rnnkernels.LSTM.load(tmp_path / "layer.safetensors"), copy.deepcopy(layer)):
        assert_same_bits(other.forward(x).h, h)
    if "peepholes" in VARIANTS[variant]:
        layer.replace(peepholes_l0=np.zeros((rows, 6), np.float32))
        assert not np.array_equal(layer.forward(x).h, h)


def test_arguments__that_do_not_fit_are_named(rng):
    (x, h0, Wx, Wh, b), _ = make(rng, "clip", 2, 3, 4, 5, np.float32)
    with pytest.raises(ValueError, match=r"`peepholes` must have shape \(3, H\)"):
        rnnkernels.lstm_forward(x, h0, Wx, Wh, b, peepholes=np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"`peepholes` must have shape \(3, H\)"):
        rnnkernels.LSTM(Wx, Wh, b, peepholes=np.zeros((3, 6)))
    for bound, error in ((0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="`cell_clip` must be"):
            rnnkernels.lstm_step_forward(x[:, 0], h0, h0, Wx, Wh, b, cell_clip=bound)
    with pytest.raises(ValueError, match=r"`Wx` must have shape \(D, 3H\)"):
        rnnkernels.lstm_forward(x, h0, Wx, Wh, b, coupled=True)
    _, cache = rnnkernels.lstm_forward(x, h0, Wx, Wh, b, cell_clip=1.0)
    cache.own = cache.own[:3]
    with pytest.raises(ValueError, match="`cache` must be as lstm_forward left it"):
        rnnkernels.lstm_backward(np.ones((2, 3, 5), np.float32), cache)


@pytest.mark.parametrize("peepholes", [None, np.full((3, 5), 0.5)])
def test_bias_of_row_functions__is_the_same_however_it_is_made(peepholes):
    Wh = np.ones((5, 20))
    usual = check_peepholes(PEEPHOLE, peepholes, 2.0, Wh)
    given = peepholes if peepholes is None else peepholes.tolist()
    np.testing.assert_array_equal(usual, check_peepholes(PEEPHOLE, given, np.float64(2.0), Wh.tolist()))
    assert peepholes is None or not np.shares_memory(usual, peepholes)
