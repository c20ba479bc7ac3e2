"""All layers together, as in an image-captioning model: embedding, cell, affine, masked loss."""

import numpy as np
import pytest
from helpers import GATES, assert_close, function, numerical_gradient

import rnnkernels
from rnnkernels import reference


def make_model(rng, gates, V, D, H, dtype):
    shapes = {
        "W_embed": (V, D),
        "h0": None,
        "Wx": (D, gates * H),
        "Wh": (H, gates * H),
        "b": (gates * H,),
        "W_vocab": (H, V),
        "b_vocab": (V,),
    }
    scale = {"W_embed": 1.0, "b": 0.1, "b_vocab": 0.1, "Wx": D**-0.5, "Wh": H**-0.5, "W_vocab": H**-0.5}
    return {name: (scale[name] * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items() if shape}


def loss_and_gradients(layers, cell, model, h0, words_in, words_out, mask):
    """Loss of a captioning model, and its gradients with respect to the parameters and h0."""
    x, embed_cache = layers.word_embedding_forward(words_in, model["W_embed"])
    h, cell_cache = function(layers, cell, "forward")(x, h0, model["Wx"], model["Wh"], model["b"])
    scores, affine_cache = layers.temporal_affine_forward(h, model["W_vocab"], model["b_vocab"])
    loss, dscores = layers.temporal_softmax_loss(scores, words_out, mask)
    dh, dW_vocab, db_vocab = layers.temporal_affine_backward(dscores, affine_cache)
    dx, dh0, dWx, dWh, db = function(layers, cell, "backward")(dh, cell_cache)
    dW_embed = layers.word_embedding_backward(dx, embed_cache)
    gradients = {"W_embed": dW_embed, "Wx": dWx, "Wh": dWh, "b": db, "W_vocab": dW_vocab, "b_vocab": db_vocab}
    return loss, gradients, dh0


@pytest.mark.parametrize("cell", GATES)
def test_captioning_model__gradient_matches_finite_differences(rng, cell):
    N, T, V, D, H = 3, 4, 7, 5, 6
    model = make_model(rng, GATES[cell], V, D, H, np.float64)
    h0 = rng.standard_normal((N, H))
    words = rng.integers(0, V, (N, T + 1))
    mask = words[:, 1:] != 0
    rest = h0, words[:, :-1], words[:, 1:], mask
    _, gradients, dh0 = loss_and_gradients(rnnkernels, cell, model, *rest)
    for name, parameter in (*model.items(), ("h0", h0)):
        expected = numerical_gradient(lambda: loss_and_gradients(rnnkernels, cell, model, *rest)[0], parameter, 1.0)
        np.testing.assert_allclose({**gradients, "h0": dh0}[name], expected, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("cell", GATES)
def test_captioning_model__of_real_size_matches_reference(rng, cell):
    N, T, V, D, H = 50, 16, 1004, 256, 512
    model = make_model(rng, GATES[cell], V, D, H, np.float32)
    h0 = (0.1 * rng.standard_normal((N, H))).astype(np.float32)
    words = rng.integers(0, V, (N, T + 1))
    mask = np.arange(T) < rng.integers(3, T + 1, (N, 1))
    rest = words[:, :-1], words[:, 1:], mask
    loss, gradients, dh0 = loss_and_gradients(rnnkernels, cell, model, h0, *rest)
    wide = {name: a.astype(np.float64) for name, a in model.items()}
    expected_loss, expected, expected_dh0 = loss_and_gradients(reference, cell, wide, h0.astype(np.float64), *rest)
    assert_close(np.asarray(loss), np.asarray(expected_loss), np.float32, factor=16)
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], np.float32)
    assert_close(dh0, expected_dh0, np.float32)


def test_captioning_model__learns(rng):
    """A few steps of plain gradient descent on one minibatch bring the loss down, in all cells and dtypes."""
    words = rng.integers(1, 11, (4, 7))
    for cell, gates in GATES.items():
        for dtype in (np.float32, np.float64):
            model = make_model(rng, gates, 11, 8, 16, dtype)
            h0 = np.zeros((4, 16), dtype)
            losses = []
            for _ in range(150):
                loss, gradients, _ = loss_and_gradients(
                    rnnkernels, cell, model, h0, words[:, :-1], words[:, 1:], np.ones((4, 6), bool)
                )
                losses.append(loss)
                for name, gradient in gradients.items():
                    model[name] -= 0.1 * gradient
            assert losses[-1] < 0.5 * losses[0]
