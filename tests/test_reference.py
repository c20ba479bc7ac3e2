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


def test_rnn_forward__by_hand():
    h, _ = reference.rnn_forward(
        np.array([[[1.0], [2.0]]]), np.array([[0.25]]), np.array([[0.5]]), np.array([[2.0]]), np.array([-1.0])
    )
    # z = 0.5 * 1 + 2 * 0.25 - 1 = 0, then z = 0.5 * 2 + 2 * 0 - 1 = 0
    np.testing.assert_array_equal(h, [[[0.0], [0.0]]])


def test_lstm_step_forward__by_hand_in_gate_order_i_f_o_g():
    third, ninth = math.log(1 / 2), math.log(1 / 8)  # sigmoid gives 1/3 and 1/9
    b = np.array([0.0, third, ninth, math.atanh(0.5)])
    next_h, next_c, _ = reference.lstm_step_forward(
        np.zeros((1, 1)), np.zeros((1, 1)), np.array([[0.75]]), np.zeros((1, 4)), np.zeros((1, 4)), b
    )
    np.testing.assert_allclose(next_c, [[1 / 2 * 1 / 2 + 1 / 3 * 0.75]])
    np.testing.assert_allclose(next_h, [[1 / 9 * math.tanh(0.5)]])


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
