"""RNN and LSTM kernels against `reference`: values and every gradient, over sequences and single steps."""

import numpy as np
import pytest
from helpers import DIVIDED, DTYPES, GATES, assert_all_close, exact, force_packing, function, make_arguments

import rnnkernels
from rnnkernels import reference

# Around the tiles (6 rows, panels of 4 to 32 columns), depth blocks (128 to 512) and chunks; 1 and odd everywhere.
SIZES = [
    (1, 1, 1, 1),
    (1, 2, 3, 4),
    (2, 3, 4, 5),
    (3, 5, 7, 8),
    (4, 3, 1, 9),
    (5, 4, 16, 15),
    (6, 2, 17, 16),
    (7, 9, 5, 17),
    (8, 3, 2, 31),
    (9, 2, 33, 32),
    (11, 3, 6, 33),
    (12, 4, 31, 7),
    (13, 30, 9, 41),
    (25, 12, 20, 83),
    (1, 400, 2, 24),
    (2, 300, 5, 6),
    (3, 7, 300, 12),
    (14, 6, 4, 270),
    (1, 5, 530, 130),
    (70, 5, 3, 20),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", GATES)
def test_sequence__matches_reference(rng, cell, sizes, dtype, packed, monkeypatch):
    force_packing(monkeypatch, packed)
    args = make_arguments(rng, GATES[cell], *sizes, dtype)
    dh = rng.standard_normal((sizes[0], sizes[1], sizes[3])).astype(dtype)
    h, cache = function(rnnkernels, cell, "forward")(*args)
    expected_h, tape = function(reference, cell, "forward")(*exact(args))
    gradients = function(rnnkernels, cell, "backward")(dh, cache)
    expected = function(reference, cell, "backward")(*exact([dh]), tape)
    assert_all_close((h, *gradients), (expected_h, *expected), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 5), (7, 20, 17), (13, 5, 33), (3, 290, 40)])
def test_rnn_step__matches_reference(rng, sizes, dtype):
    N, D, H = sizes
    x, *rest = make_arguments(rng, 1, N, 1, D, H, dtype)
    args = [x[:, 0], *rest]
    dnext_h = rng.standard_normal((N, H)).astype(dtype)
    next_h, cache = rnnkernels.rnn_step_forward(*args)
    expected_h, tape = reference.rnn_step_forward(*exact(args))
    gradients = rnnkernels.rnn_step_backward(dnext_h, cache)
    expected = reference.rnn_step_backward(*exact([dnext_h]), tape)
    assert_all_close((next_h, *gradients), (expected_h, *expected), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 5), (7, 20, 17), (13, 5, 33), (3, 290, 40)])
def test_lstm_step__matches_reference(rng, sizes, dtype):
    N, D, H = sizes
    x, prev_h, *weights = make_arguments(rng, 4, N, 1, D, H, dtype)
    args = [x[:, 0], prev_h, rng.standard_normal((N, H)).astype(dtype), *weights]
    dnext_h, dnext_c = rng.standard_normal((2, N, H)).astype(dtype)
    next_h, next_c, cache = rnnkernels.lstm_step_forward(*args)
    expected_h, expected_c, tape = reference.lstm_step_forward(*exact(args))
    gradients = rnnkernels.lstm_step_backward(dnext_h, dnext_c, cache)
    expected = reference.lstm_step_backward(*exact([dnext_h, dnext_c]), tape)
    assert_all_close((next_h, next_c, *gradients), (expected_h, expected_c, *expected), dtype)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (0, 0, 0, 5)])
def test_sequence__of_size_zero_is_defined(rng, cell, sizes):
    args = make_arguments(rng, GATES[cell], *sizes, np.float32)
    h, cache = function(rnnkernels, cell, "forward")(*args)
    dh = np.ones_like(h)
    gradients = function(rnnkernels, cell, "backward")(dh, cache)
    assert [g.shape for g in gradients] == [a.shape for a in args]
    expected_h, tape = function(reference, cell, "forward")(*exact(args))
    assert_all_close([h], [expected_h], np.float32)
    if sizes[0] == 0 or sizes[1] == 0:
        assert not any(g.any() for g in gradients)
    else:
        assert_all_close(gradients, function(reference, cell, "backward")(exact([dh])[0], tape), np.float32)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)])
def test_sequence__of_size_zero_takes_a_wider_gradient_and_names_its_states(rng, cell, sizes):
    args = make_arguments(rng, GATES[cell], *sizes, np.float32)
    h, cache = function(rnnkernels, cell, "forward")(*args)
    gradients = function(rnnkernels, cell, "backward")(np.ones(h.shape, np.float64), cache)
    assert [(g.shape, g.dtype) for g in gradients] == [(a.shape, np.float64) for a in args]
    for name in {"lstm": "ifogc", "gru": "rznh", "rnn": "h"}[cell.partition("_")[0]]:
        assert getattr(cache, name).shape == h.shape


def test_lstm_cache__names_gates_and_cells(rng):
    args = make_arguments(rng, 4, 3, 4, 5, 11, np.float64)
    h, cache = rnnkernels.lstm_forward(*args)
    x, h0, Wx, Wh, b = args
    previous = np.concatenate([h0[:, None], h[:, :-1]], axis=1)
    z = np.split(x @ Wx + previous @ Wh + b, 4, axis=-1)
    for gate, expected in zip((cache.i, cache.f, cache.o), map(reference.sigmoid, z[:3]), strict=True):
        np.testing.assert_allclose(gate, expected, rtol=1e-12)
    np.testing.assert_allclose(cache.g, np.tanh(z[3]), rtol=1e-12)
    np.testing.assert_allclose(cache.o * np.tanh(cache.c), h, rtol=1e-12)


def test_rnn_cache__names_states(rng):
    h, cache = rnnkernels.rnn_forward(*make_arguments(rng, 1, 3, 4, 5, 11, np.float32))
    np.testing.assert_array_equal(cache.h, h)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", DIVIDED)  # relu cuts off what decays
def test_states_and_gradients__that_decay_end_at_zero(rng, cell, dtype):
    """Not at subnormal numbers, which cost many times as much."""
    tiny, T = np.finfo(dtype).tiny, 400 if dtype == np.float32 else 3000
    x, h0, Wx, Wh, b = make_arguments(rng, GATES[cell], 2, T, 3, 20, dtype)
    x[...], b[...] = 0, 0
    Wh *= 0.5
    b[: GATES[cell] // 3 * 40] = -0.5  # gates half shut
    h, cache = function(rnnkernels, cell, "forward")(x, h0, Wx, Wh, b)
    dh = np.zeros_like(h)
    dh[:, -1] = 1
    dx, *_ = function(rnnkernels, cell, "backward")(dh, cache)
    for values in (h, dx):
        magnitudes = np.abs(values[values != 0])
        assert magnitudes.min() > tiny
    assert not h[:, -1].any()
    assert not dx[:, 0].any()
    assert h[:, 5].all()
    assert dx[:, -5].all()
