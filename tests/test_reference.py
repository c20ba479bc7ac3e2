"""`reference` against values computed by hand and against finite differences."""

import math

import numpy as np
import pytest
from helpers import GATES, make_arguments, numerical_gradient

from rnnkernels import reference


def test_sigmoid__by_hand():
    np.testing.assert_allclose(
        reference.sigmoid(np.array([-800.0, -math.log(3), 0.0, math.log(3), 800.0])), [0.0, 0.25, 0.5, 0.75, 1.0]
    )


def test_rnn_forward_and_backward__by_hand():
    x, h0, b = np.array([[[1.0], [2.0]]]), np.array([[0.25]]), np.array([math.log(2) - 1.0])
    Wx, Wh = np.array([[0.5]]), np.array([[2.0]])
    # z = 0.5 * 1 + 2 * 0.25 + b = ln 2, whose tanh is 3/5; then z = 0.5 * 2 + 2 * 3/5 + b.
    last = math.tanh(1.2 + math.log(2))
    h, cache = reference.rnn_forward(x, h0, Wx, Wh, b)
    np.testing.assert_allclose(h, [[[3 / 5], [last]]], rtol=1e-14)

    dx, dh0, dWx, dWh, db = reference.rnn_backward(np.array([[[3.0], [5.0]]]), cache)
    dz_last = 5 * (1 - last**2)
    dz_first = (3 + 2 * dz_last) * (1 - 9 / 25)
    np.testing.assert_allclose(dx, [[[0.5 * dz_first], [0.5 * dz_last]]], rtol=1e-14)
    np.testing.assert_allclose(dh0, [[2 * dz_first]], rtol=1e-14)
    np.testing.assert_allclose(dWx, [[1 * dz_first + 2 * dz_last]], rtol=1e-14)
    np.testing.assert_allclose(dWh, [[0.25 * dz_first + 3 / 5 * dz_last]], rtol=1e-14)
    np.testing.assert_allclose(db, [dz_first + dz_last], rtol=1e-14)


def test_lstm_step__by_hand_in_gate_order_i_f_o_g():
    # Gates from the bias alone: i = 3/4, f = 1/4, o = 1/2 and g = tanh(ln 2) = 3/5. The cell state becomes ln 2 again.
    b = np.array([math.log(3), -math.log(3), 0.0, math.log(2)])
    x, prev_h, prev_c = np.array([[2.0]]), np.array([[-3.0]]), np.array([[4 * (math.log(2) - 9 / 20)]])
    Wx, Wh = np.array([[0.0, 0.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 0.0, 0.0]])
    next_h, next_c, cache = reference.lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b)
    np.testing.assert_allclose(next_c, [[math.log(2)]], rtol=1e-14)
    np.testing.assert_allclose(next_h, [[1 / 2 * 3 / 5]], rtol=1e-14)

    # dc = 2 + 1 * 1/2 * (1 - 9/25) = 2.32
    dx, dprev_h, dprev_c, dWx, dWh, db = reference.lstm_step_backward(np.array([[1.0]]), np.array([[2.0]]), cache)
    dz = np.array(
        [
            2.32 * 3 / 5 * (3 / 4 * 1 / 4),
            2.32 * 4 * (math.log(2) - 9 / 20) * (1 / 4 * 3 / 4),
            1.0 * 3 / 5 * (1 / 2 * 1 / 2),
            2.32 * 3 / 4 * (1 - 9 / 25),
        ]
    )
    np.testing.assert_allclose(db, dz, rtol=1e-14)
    np.testing.assert_allclose(dprev_c, [[2.32 / 4]], rtol=1e-14)
    np.testing.assert_allclose(dWx, [2 * dz], rtol=1e-14)
    np.testing.assert_allclose(dWh, [-3 * dz], rtol=1e-14)
    np.testing.assert_array_equal(dx, [[0.0]])
    np.testing.assert_array_equal(dprev_h, [[0.0]])


def test_lstm_step__multiplies_each_gate_block_by_its_weights():
    """Two hidden units: block q of the columns belongs to gate q of both units."""
    b, zeros = np.zeros(8), np.zeros((1, 2))
    Wx = np.arange(1.0, 9.0).reshape(1, 8) / 10
    next_h, next_c, _ = reference.lstm_step_forward(np.array([[1.0]]), zeros, zeros, Wx, np.zeros((2, 8)), b)
    for unit in range(2):
        i, o = 1 / (1 + math.exp(-(unit + 1) / 10)), 1 / (1 + math.exp(-(unit + 5) / 10))
        g = math.tanh((unit + 7) / 10)
        np.testing.assert_allclose(next_c[0, unit], i * g, rtol=1e-14)
        np.testing.assert_allclose(next_h[0, unit], o * math.tanh(i * g), rtol=1e-14)


def test_lstm_forward__starts_from_a_cell_of_zero_and_carries_on(rng):
    x, h0, Wx, Wh, b = make_arguments(rng, 4, 2, 3, 2, 3, np.float64)
    h, _ = reference.lstm_forward(x, h0, Wx, Wh, b)
    state, cell = h0, np.zeros((2, 3))
    for t in range(3):
        state, cell, _ = reference.lstm_step_forward(x[:, t], state, cell, Wx, Wh, b)
        np.testing.assert_allclose(h[:, t], state)


def test_word_embedding__by_hand():
    W = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    out, cache = reference.word_embedding_forward(np.array([[2, 0, 2]]), W)
    np.testing.assert_array_equal(out, [[[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]])
    dW = reference.word_embedding_backward(np.array([[[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]]), cache)
    np.testing.assert_array_equal(dW, [[3.0, 4.0], [0.0, 0.0], [11.0, 22.0]])


def test_temporal_affine__by_hand():
    x, w, b = (
        np.array([[[1.0, 2.0], [3.0, -1.0]]]),
        np.array([[1.0, 0.0, 2.0], [0.5, 4.0, 1.0]]),
        np.array([0.0, 1.0, -1.0]),
    )
    out, cache = reference.temporal_affine_forward(x, w, b)
    np.testing.assert_array_equal(out, [[[2.0, 9.0, 3.0], [2.5, -3.0, 4.0]]])
    dx, dw, db = reference.temporal_affine_backward(np.array([[[1.0, 0.0, 2.0], [0.0, 3.0, -1.0]]]), cache)
    np.testing.assert_array_equal(dx, [[[5.0, 2.5], [-2.0, 11.0]]])
    np.testing.assert_array_equal(dw, [[1.0, 9.0, -1.0], [2.0, -3.0, 5.0]])
    np.testing.assert_array_equal(db, [1.0, 3.0, 1.0])


def test_temporal_softmax_loss__by_hand():
    x = np.log(np.array([[[1.0, 3.0], [1.0, 1.0]], [[1.0, 1.0], [9.0, 1.0]]]))
    loss, dx = reference.temporal_softmax_loss(x, np.array([[1, 0], [-5, 0]]), np.array([[True, True], [False, True]]))
    np.testing.assert_allclose(loss, (-math.log(3 / 4) - math.log(1 / 2) - math.log(9 / 10)) / 2)
    np.testing.assert_allclose(dx, np.array([[[0.25, -0.25], [-0.5, 0.5]], [[0.0, 0.0], [-0.1, 0.1]]]) / 2, atol=1e-15)


@pytest.mark.parametrize("cell", GATES)
def test_sequence_gradients__match_finite_differences(rng, cell):
    args = make_arguments(rng, GATES[cell], 2, 4, 3, 2, np.float64)
    forward, backward = getattr(reference, f"{cell}_forward"), getattr(reference, f"{cell}_backward")
    h, cache = forward(*args)
    dh = rng.standard_normal(h.shape)
    for argument, gradient in zip(args, backward(dh, cache), strict=True):
        expected = numerical_gradient(lambda: forward(*args)[0], argument, dh)
        np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-9)


def test_rnn_step_gradients__match_finite_differences(rng):
    x, *rest = make_arguments(rng, 1, 3, 1, 2, 4, np.float64)
    args = [x[:, 0].copy(), *rest]
    next_h, cache = reference.rnn_step_forward(*args)
    dnext_h = rng.standard_normal(next_h.shape)
    for argument, gradient in zip(args, reference.rnn_step_backward(dnext_h, cache), strict=True):
        expected = numerical_gradient(lambda: reference.rnn_step_forward(*args)[0], argument, dnext_h)
        np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-9)


def test_lstm_step_gradients__match_finite_differences(rng):
    x, prev_h, *weights = make_arguments(rng, 4, 3, 1, 2, 4, np.float64)
    args = [x[:, 0].copy(), prev_h, rng.standard_normal((3, 4)), *weights]
    next_h, next_c, cache = reference.lstm_step_forward(*args)
    dnext_h, dnext_c = rng.standard_normal(next_h.shape), rng.standard_normal(next_c.shape)
    upstream = np.stack([dnext_h, dnext_c])
    for argument, gradient in zip(args, reference.lstm_step_backward(dnext_h, dnext_c, cache), strict=True):
        expected = numerical_gradient(lambda: np.stack(reference.lstm_step_forward(*args)[:2]), argument, upstream)
        np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-9)


def test_temporal_affine_gradients__match_finite_differences(rng):
    args = [rng.standard_normal(shape) for shape in ((2, 3, 4), (4, 5), (5,))]
    out, cache = reference.temporal_affine_forward(*args)
    dout = rng.standard_normal(out.shape)
    for argument, gradient in zip(args, reference.temporal_affine_backward(dout, cache), strict=True):
        expected = numerical_gradient(lambda: reference.temporal_affine_forward(*args)[0], argument, dout)
        np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-9)


def test_word_embedding_gradient__matches_finite_differences(rng):
    words, W = rng.integers(0, 5, (2, 6)), rng.standard_normal((5, 3))
    out, cache = reference.word_embedding_forward(words, W)
    dout = rng.standard_normal(out.shape)
    expected = numerical_gradient(lambda: reference.word_embedding_forward(words, W)[0], W, dout)
    np.testing.assert_allclose(reference.word_embedding_backward(dout, cache), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("weights", [False, True])
def test_temporal_softmax_loss_gradient__matches_finite_differences(rng, weights):
    x, y = rng.standard_normal((3, 4, 5)), rng.integers(0, 5, (3, 4))
    mask = rng.random((3, 4)) if weights else rng.random((3, 4)) < 0.6
    _, dx = reference.temporal_softmax_loss(x, y, mask)
    expected = numerical_gradient(lambda: reference.temporal_softmax_loss(x, y, mask)[0], x, 1.0)
    np.testing.assert_allclose(dx, expected, rtol=1e-8, atol=1e-9)
