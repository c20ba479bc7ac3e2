"""A program that was written for the published module runs unchanged under its import line."""

import numpy as np

import rnnkernels as rnn_layers


def test_program__that_uses_every_function_runs_unchanged():
    rng = np.random.default_rng(231)
    N, T, D, H, V = 2, 5, 4, 3, 6
    captions = rng.integers(0, V, (N, T + 1))
    W_embed = rng.standard_normal((V, D))
    Wx, Wh, b = rng.standard_normal((D, 4 * H)), rng.standard_normal((H, 4 * H)), np.zeros(4 * H)
    W_vocab, b_vocab = rng.standard_normal((H, V)), np.zeros(V)
    h0 = np.linspace(-1, 1, N * H).reshape(N, H)

    out, cache_embed = rnn_layers.word_embedding_forward(captions[:, :-1], W_embed)
    h, cache_lstm = rnn_layers.lstm_forward(out, h0, Wx, Wh, b)
    scores, cache_affine = rnn_layers.temporal_affine_forward(h, W_vocab, b_vocab)
    loss, dscores = rnn_layers.temporal_softmax_loss(scores, captions[:, 1:], captions[:, 1:] != 0, verbose=False)
    dh, dW_vocab, db_vocab = rnn_layers.temporal_affine_backward(dscores, cache_affine)
    dout, dh0, dWx, dWh, db = rnn_layers.lstm_backward(dh, cache_lstm)
    dW_embed = rnn_layers.word_embedding_backward(dout, cache_embed)
    assert np.ndim(loss) == 0
    assert 0 < loss / T < 10
    pairs = ((dW_embed, W_embed), (dWx, Wx), (dWh, Wh), (db, b), (dW_vocab, W_vocab), (db_vocab, b_vocab), (dh0, h0))
    for gradient, parameter in pairs:
        assert gradient.shape == parameter.shape
        parameter -= 1e-3 * gradient

    prev_h, prev_c = h0, np.zeros_like(h0)
    for t in range(T):
        prev_h, prev_c, step_cache = rnn_layers.lstm_step_forward(out[:, t], prev_h, prev_c, Wx, Wh, b)
        assert prev_h.shape == prev_c.shape == (N, H)
    gradients = rnn_layers.lstm_step_backward(np.ones((N, H)), np.zeros((N, H)), step_cache)
    assert [g.shape for g in gradients] == [(N, D), (N, H), (N, H), (D, 4 * H), (H, 4 * H), (4 * H,)]

    Wx, Wh, b = rng.standard_normal((D, H)), rng.standard_normal((H, H)), np.zeros(H)
    h, cache_rnn = rnn_layers.rnn_forward(out, h0, Wx, Wh, b)
    gradients = rnn_layers.rnn_backward(np.ones_like(h), cache_rnn)
    assert [g.shape for g in gradients] == [(N, T, D), (N, H), (D, H), (H, H), (H,)]
    next_h, step_cache = rnn_layers.rnn_step_forward(out[:, 0], h0, Wx, Wh, b)
    np.testing.assert_array_equal(next_h, h[:, 0])
    gradients = rnn_layers.rnn_step_backward(np.ones((N, H)), step_cache)
    assert [g.shape for g in gradients] == [(N, D), (N, H), (D, H), (H, H), (H,)]
    np.testing.assert_allclose(rnn_layers.sigmoid(np.array([0.0, np.log(3)])), [0.5, 0.75])
