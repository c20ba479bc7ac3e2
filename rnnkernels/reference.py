"""Every function of the package in plain NumPy: its executable specification, and the yardstick of its speed.

Nothing here is checked or tuned: arguments are arrays of one float dtype and of the documented shapes, and the results
have that dtype. Any float dtype works, ``np.longdouble`` too, which is how the tests obtain values that are exact
compared with float64. The caches are tuples for the matching backward function and nobody else.

Sizes: N sequences, T steps, D inputs, H hidden units, V words, M outputs. Along the last axis of the LSTM's `Wx`, `Wh`
and `b` lie four blocks of H columns, for the gates i, f, o, g in this order. ``*`` is the element-wise product, ``@``
the matrix product, and ``d`` before a name the gradient of the loss with respect to it.
"""

import numpy as np

Cache = tuple[np.ndarray, ...]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Compute 1 / (1 + exp(-x)) without overflow, to full relative precision at both ends.

    Parameters
    ----------
    x : ndarray of any shape

    Returns
    -------
    ndarray
        Values from 0 to 1, in the shape of `x`; NaN where `x` is NaN.

    Notes
    -----
    With e = exp(-abs(x)), which is at most 1::

        sigmoid(x) = 1 / (1 + e)    for x >= 0
        sigmoid(x) = e / (1 + e)    for x < 0
    """
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, np.ones_like(e), e) / (1 + e)


def rnn_step_forward(
    x: np.ndarray, prev_h: np.ndarray, Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, Cache]:
    """Advance a vanilla RNN by one step.

    Parameters
    ----------
    x : ndarray of shape (N, D)
        Input of this step.
    prev_h : ndarray of shape (N, H)
        Hidden state before it.
    Wx : ndarray of shape (D, H)
        Weights of the input.
    Wh : ndarray of shape (H, H)
        Weights of the hidden state.
    b : ndarray of shape (H,)
        Bias.

    Returns
    -------
    next_h : ndarray of shape (N, H)
        Hidden state after the step.
    cache : tuple
        For `rnn_step_backward`.

    Notes
    -----
    ::

        next_h = tanh(x @ Wx + prev_h @ Wh + b)     (1)
    """
    next_h = np.tanh(np.dot(x, Wx) + np.dot(prev_h, Wh) + b)  # (1)
    return next_h, (x, prev_h, Wx, Wh, next_h.copy())


def rnn_step_backward(
    dnext_h: np.ndarray, cache: Cache
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Propagate a gradient back through one step of a vanilla RNN.

    Parameters
    ----------
    dnext_h : ndarray of shape (N, H)
        Gradient of the hidden state after the step.
    cache : tuple
        From `rnn_step_forward`.

    Returns
    -------
    dx : ndarray of shape (N, D)
    dprev_h : ndarray of shape (N, H)
    dWx : ndarray of shape (D, H)
    dWh : ndarray of shape (H, H)
    db : ndarray of shape (H,)

    Notes
    -----
    With z the argument of tanh in (1)::

        dz      = dnext_h * (1 - next_h**2)                 (2)
        dx      = dz @ Wx.T         dprev_h = dz @ Wh.T     (3)
        dWx     = x.T @ dz          dWh     = prev_h.T @ dz     db = sum of dz over N   (4)
    """
    x, prev_h, Wx, Wh, next_h = cache
    dz = dnext_h * (1 - next_h**2)  # (2)
    dx, dprev_h = np.dot(dz, Wx.T), np.dot(dz, Wh.T)  # (3)
    dWx, dWh, db = np.dot(x.T, dz), np.dot(prev_h.T, dz), dz.sum(axis=0)  # (4)
    return dx, dprev_h, dWx, dWh, db


def rnn_forward(
    x: np.ndarray, h0: np.ndarray, Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, Cache]:
    """Run a vanilla RNN over whole sequences.

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
        Input sequences.
    h0 : ndarray of shape (N, H)
        Hidden state before the first step.
    Wx : ndarray of shape (D, H)
        Weights of the input.
    Wh : ndarray of shape (H, H)
        Weights of the hidden state.
    b : ndarray of shape (H,)
        Bias.

    Returns
    -------
    h : ndarray of shape (N, T, H)
        Hidden state after every step.
    cache : tuple
        For `rnn_backward`.

    Notes
    -----
    For t = 0 .. T - 1, with h[-1] = h0::

        h[t] = tanh(x[t] @ Wx + h[t-1] @ Wh + b)    (5)
    """
    N, T, _ = x.shape
    H = h0.shape[1]
    zx = _project(x, Wx, b)  # (N, T, H)
    states = np.empty((N, T + 1, H), dtype=np.result_type(zx, h0, Wh))  # h0 and h, in one array
    states[:, 0] = h0
    for t in range(T):
        states[:, t + 1] = np.tanh(zx[:, t] + np.dot(states[:, t], Wh))  # (5)
    return states[:, 1:].copy(), (x, Wx, Wh, states)


def rnn_backward(dh: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Propagate gradients back through whole sequences of a vanilla RNN.

    Parameters
    ----------
    dh : ndarray of shape (N, T, H)
        Gradient of the hidden state after every step.
    cache : tuple
        From `rnn_forward`.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of shape (N, H)
    dWx : ndarray of shape (D, H)
    dWh : ndarray of shape (H, H)
    db : ndarray of shape (H,)

    Notes
    -----
    For t = T - 1 .. 0, where the gradient r that arrives from the following step starts at zero and ends as dh0::

        dz[t] = (dh[t] + r) * (1 - h[t]**2)         (6)
        r     = dz[t] @ Wh.T                        (7)

    and then, summed over all sequences and steps::

        dx = dz @ Wx.T      dWx = x.T @ dz      dWh = h[t-1].T @ dz[t]      db = sum of dz   (8)
    """
    x, Wx, Wh, states = cache
    N, T, H = dh.shape
    dz = np.empty((N, T, H), dtype=np.result_type(dh, states))
    r = np.zeros((N, H), dtype=dz.dtype)
    for t in reversed(range(T)):
        dz[:, t] = (dh[:, t] + r) * (1 - states[:, t + 1] ** 2)  # (6)
        r = np.dot(dz[:, t], Wh.T)  # (7)
    dx, dWx, dWh, db = _accumulate(dz, x, states[:, :-1], Wx)  # (8)
    return dx, r, dWx, dWh, db


def lstm_step_forward(
    x: np.ndarray, prev_h: np.ndarray, prev_c: np.ndarray, Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Cache]:
    """Advance an LSTM by one step.

    Parameters
    ----------
    x : ndarray of shape (N, D)
        Input of this step.
    prev_h, prev_c : ndarray of shape (N, H)
        Hidden and cell state before it.
    Wx : ndarray of shape (D, 4H)
        Weights of the input.
    Wh : ndarray of shape (H, 4H)
        Weights of the hidden state.
    b : ndarray of shape (4H,)
        Bias.

    Returns
    -------
    next_h, next_c : ndarray of shape (N, H)
        Hidden and cell state after the step.
    cache : tuple
        For `lstm_step_backward`.

    Notes
    -----
    ::

        z       = x @ Wx + prev_h @ Wh + b                          (9)
        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)          (10)
        g       = tanh(z_g)                                         (11)
        next_c  = f * prev_c + i * g                                (12)
        next_h  = o * tanh(next_c)                                  (13)
    """
    z = np.dot(x, Wx) + np.dot(prev_h, Wh) + b  # (9)
    next_h, next_c, gates = _lstm_cell_forward(z, prev_c)
    return next_h, next_c, (x, prev_h, prev_c, Wx, Wh, gates, next_c.copy())


def lstm_step_backward(
    dnext_h: np.ndarray, dnext_c: np.ndarray, cache: Cache
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Propagate gradients back through one step of an LSTM.

    Parameters
    ----------
    dnext_h, dnext_c : ndarray of shape (N, H)
        Gradients of hidden and cell state after the step.
    cache : tuple
        From `lstm_step_forward`.

    Returns
    -------
    dx : ndarray of shape (N, D)
    dprev_h, dprev_c : ndarray of shape (N, H)
    dWx : ndarray of shape (D, 4H)
    dWh : ndarray of shape (H, 4H)
    db : ndarray of shape (4H,)

    Notes
    -----
    With y = tanh(next_c)::

        dc      = dnext_c + dnext_h * o * (1 - y**2)        (14)
        dz_i    = dc * g * i * (1 - i)                      (15)
        dz_f    = dc * prev_c * f * (1 - f)                 (16)
        dz_o    = dnext_h * y * o * (1 - o)                 (17)
        dz_g    = dc * i * (1 - g**2)                       (18)
        dprev_c = dc * f                                    (19)

    and from dz the same products as in (3) and (4).
    """
    x, prev_h, prev_c, Wx, Wh, gates, next_c = cache
    dz, dprev_c = _lstm_cell_backward(dnext_h, dnext_c, gates, prev_c, next_c)
    dx, dprev_h = np.dot(dz, Wx.T), np.dot(dz, Wh.T)  # (3)
    dWx, dWh, db = np.dot(x.T, dz), np.dot(prev_h.T, dz), dz.sum(axis=0)  # (4)
    return dx, dprev_h, dprev_c, dWx, dWh, db


def lstm_forward(
    x: np.ndarray, h0: np.ndarray, Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, Cache]:
    """Run an LSTM over whole sequences; its cell state starts at zero.

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
        Input sequences.
    h0 : ndarray of shape (N, H)
        Hidden state before the first step.
    Wx : ndarray of shape (D, 4H)
        Weights of the input.
    Wh : ndarray of shape (H, 4H)
        Weights of the hidden state.
    b : ndarray of shape (4H,)
        Bias.

    Returns
    -------
    h : ndarray of shape (N, T, H)
        Hidden state after every step.
    cache : tuple
        For `lstm_backward`.

    Notes
    -----
    Equations (9) to (13) for t = 0 .. T - 1, each with the states that the step before has left.
    """
    N, T, _ = x.shape
    H = h0.shape[1]
    zx = _project(x, Wx, b)  # (N, T, 4H)
    dtype = np.result_type(zx, h0, Wh)
    hidden = np.empty((N, T + 1, H), dtype)  # h0 and h, in one array
    cells = np.empty((N, T + 1, H), dtype)
    gates = np.empty((N, T, 4 * H), dtype)
    hidden[:, 0] = h0
    cells[:, 0] = 0
    for t in range(T):
        z = zx[:, t] + np.dot(hidden[:, t], Wh)  # (9)
        hidden[:, t + 1], cells[:, t + 1], gates[:, t] = _lstm_cell_forward(z, cells[:, t])
    return hidden[:, 1:].copy(), (x, Wx, Wh, hidden, cells, gates)


def lstm_backward(dh: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Propagate gradients back through whole sequences of an LSTM.

    Parameters
    ----------
    dh : ndarray of shape (N, T, H)
        Gradient of the hidden state after every step.
    cache : tuple
        From `lstm_forward`.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of shape (N, H)
    dWx : ndarray of shape (D, 4H)
    dWh : ndarray of shape (H, 4H)
    db : ndarray of shape (4H,)

    Notes
    -----
    Equations (14) to (19) for t = T - 1 .. 0: the gradients that arrive from the following step start at zero, and the
    one of the hidden state, dz @ Wh.T, ends as dh0. Then the sums of (8).
    """
    x, Wx, Wh, hidden, cells, gates = cache
    N, T, H = dh.shape
    dz = np.empty((N, T, 4 * H), dtype=np.result_type(dh, gates))
    r = np.zeros((N, H), dtype=dz.dtype)
    dc = np.zeros((N, H), dtype=dz.dtype)
    for t in reversed(range(T)):
        dz[:, t], dc = _lstm_cell_backward(dh[:, t] + r, dc, gates[:, t], cells[:, t], cells[:, t + 1])
        r = np.dot(dz[:, t], Wh.T)
    dx, dWx, dWh, db = _accumulate(dz, x, hidden[:, :-1], Wx)  # (8)
    return dx, r, dWx, dWh, db


def word_embedding_forward(x: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Look up the vector of every word.

    Parameters
    ----------
    x : ndarray of shape (N, T), integer
        Words, each from 0 to V - 1.
    W : ndarray of shape (V, D)
        One vector per word.

    Returns
    -------
    out : ndarray of shape (N, T, D)
        ``out[n, t] = W[x[n, t]]``
    cache : tuple
        For `word_embedding_backward`.

    Raises
    ------
    IndexError
        If a word is V or more.
    """
    return W[x], (x, W)


def word_embedding_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """Sum, for every word, the gradients of all places where it stands.

    Parameters
    ----------
    dout : ndarray of shape (N, T, D)
        Gradient of the looked-up vectors.
    cache : tuple
        From `word_embedding_forward`.

    Returns
    -------
    ndarray of shape (V, D)
        Gradient of `W`.
    """
    x, W = cache
    dW = np.zeros(W.shape, dtype=np.result_type(dout, W))
    np.add.at(dW, x, dout)
    return dW


def temporal_affine_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Apply one affine map to the vector of every step.

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
        Input vectors.
    w : ndarray of shape (D, M)
        Weights.
    b : ndarray of shape (M,)
        Bias.

    Returns
    -------
    out : ndarray of shape (N, T, M)
        ``out[n, t] = x[n, t] @ w + b``
    cache : tuple
        For `temporal_affine_backward`.
    """
    return _project(x, w, b), (x, w)


def temporal_affine_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Propagate gradients back through `temporal_affine_forward`.

    Parameters
    ----------
    dout : ndarray of shape (N, T, M)
        Gradient of the outputs.
    cache : tuple
        From `temporal_affine_forward`.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
        ``dx[n, t] = dout[n, t] @ w.T``
    dw : ndarray of shape (D, M)
        ``x[n, t].T @ dout[n, t]``, summed over n and t.
    db : ndarray of shape (M,)
        `dout`, summed over n and t.
    """
    x, w = cache
    rows = _rows(dout)
    dx = np.dot(rows, w.T).reshape(x.shape)
    return dx, np.dot(_rows(x).T, rows), rows.sum(axis=0)


def temporal_softmax_loss(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, verbose: bool = False
) -> tuple[np.floating, np.ndarray]:
    """Compute the masked cross-entropy of softmax(x) against the words y, and its gradient.

    Parameters
    ----------
    x : ndarray of shape (N, T, V)
        Scores of all words at every step.
    y : ndarray of shape (N, T), integer
        The right words; not read where `mask` is 0.
    mask : ndarray of shape (N, T), bool or real
        Weight of every step; a step of weight 0 does not count, whatever its scores are.
    verbose : bool
        Print the shape of `dx` as a table of N * T rows.

    Returns
    -------
    loss : scalar
        Summed over the steps, averaged over the N sequences; 0 if there are none.
    dx : ndarray of shape (N, T, V)
        Its gradient.

    Raises
    ------
    IndexError
        If a word that counts is V or more.

    Notes
    -----
    With m the greatest score of a step, which keeps exp from overflowing::

        log_p[v] = x[v] - m - log(sum over u of exp(x[u] - m))
        loss     = sum over n, t of -mask * log_p[y] / N
        dx[v]    = (exp(log_p[v]) - (1 if v == y else 0)) * mask / N
    """
    N = max(x.shape[0], 1)
    counts = mask != 0
    scores, words = x[counts], y[counts]  # (K, V) and (K,), of the K steps that count
    weight = mask[counts].astype(x.dtype) / N
    right = np.arange(words.size), words

    shifted = scores - scores.max(axis=1, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(axis=1, keepdims=True)
    loss = np.sum(weight * (np.log(total[:, 0]) - shifted[right]))

    p /= total
    p[right] -= 1
    dx = np.zeros_like(x)
    dx[counts] = p * weight[:, None]
    if verbose:
        print("dx_flat: ", _rows(dx).shape)
    return loss, dx


def _rows(x: np.ndarray) -> np.ndarray:
    """Lay the vectors of all steps out as the rows of one matrix, (N, T, D) -> (N T, D)."""
    N, T, D = x.shape
    return x.reshape(N * T, D)


def _project(x: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute x[n, t] @ W + b for all steps in one product."""
    N, T, _ = x.shape
    return (np.dot(_rows(x), W) + b).reshape(N, T, b.size)


def _accumulate(
    dz: np.ndarray, x: np.ndarray, prev_h: np.ndarray, Wx: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compute dx, dWx, dWh and db of (8) for all steps at once."""
    rows = _rows(dz)
    dx = np.dot(rows, Wx.T).reshape(x.shape)
    return dx, np.dot(_rows(x).T, rows), np.dot(_rows(prev_h).T, rows), rows.sum(axis=0)


def _lstm_cell_forward(z: np.ndarray, prev_c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply (10) to (13) to pre-activations (N, 4H); return next_h, next_c and the gates (N, 4H)."""
    H = prev_c.shape[1]
    gates = np.concatenate([sigmoid(z[:, : 3 * H]), np.tanh(z[:, 3 * H :])], axis=1)
    i, f, o, g = np.split(gates, 4, axis=1)
    next_c = f * prev_c + i * g
    return o * np.tanh(next_c), next_c, gates


def _lstm_cell_backward(
    dnext_h: np.ndarray, dnext_c: np.ndarray, gates: np.ndarray, prev_c: np.ndarray, next_c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Apply (14) to (19); return the gradients dz (N, 4H) and dprev_c."""
    i, f, o, g = np.split(gates, 4, axis=1)
    y = np.tanh(next_c)
    dc = dnext_c + dnext_h * o * (1 - y**2)
    dz = np.concatenate(
        [
            dc * g * i * (1 - i),
            dc * prev_c * f * (1 - f),
            dnext_h * y * o * (1 - o),
            dc * i * (1 - g**2),
        ],
        axis=1,
    )
    return dz, dc * f
