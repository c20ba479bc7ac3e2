"""Every function of the package in plain NumPy: its executable specification, and the yardstick of its speed.

Nothing here is checked or tuned: arguments are arrays of one float dtype and of the documented shapes, and the results
have that dtype. Any float dtype works, ``np.longdouble`` too, which is how the tests obtain values that are exact
compared with float64. The caches are tuples for the matching backward function and nobody else.

Sizes: N sequences, T steps, D inputs, H hidden units, P columns of a projection, V words, M outputs. Along the last
axis of `Wx`, `Wh` and `b` lie blocks of H columns, one for each gate: i, f, o, g of the LSTM, and r, z, n of the GRU,
in this order. ``*`` is the element-wise product, ``@`` the matrix product, and ``d`` before a name the gradient of the
loss with respect to it.

States and the inputs of single steps broadcast as in NumPy. The state before the first step is (N, H), (1, H), (H,) or
a number, or None for zero; the input of a step is (N, D), (1, D) or (D,), and its states as above, but not None. Where
all are vectors or numbers, a step returns vectors. Lists do for inputs and states; a number has the dtype of the
weights. Each gradient has the shape of what was given: it is summed over the rows that shared it. That of None is
(N, H).

Sequences may have `lengths`, valid steps of each, after which all is padding; with `reverse` they run from the last
valid step to the first; `resets` (N, T) are steps before which the state becomes zero. What is between two of these
borders is a *stretch*, a sequence by itself. Only the last hidden state is returned where `outputs` are "last", and a
gradient (N, H) is of that.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rnnkernels._results import (
    ForwardResult,
    GRUState,
    LSTMState,
    LSTMStepGradients,
    RNNState,
    SequenceGradients,
    StepGradients,
)

__all__ = [
    "gru_backward",
    "gru_forward",
    "gru_step_backward",
    "gru_step_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_step_backward",
    "lstm_step_forward",
    "rnn_backward",
    "rnn_forward",
    "rnn_step_backward",
    "rnn_step_forward",
    "sigmoid",
    "temporal_affine_backward",
    "temporal_affine_forward",
    "temporal_affine_softmax_loss",
    "temporal_softmax_loss",
    "word_embedding_backward",
    "word_embedding_forward",
]

Cache = tuple[Any, ...]


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
    x: np.ndarray,
    prev_h: np.ndarray,
    Wx: np.ndarray,
    Wh: np.ndarray,
    b: np.ndarray,
    *,
    activation: str = "tanh",
    clip: float | None = None,
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
    activation : {"tanh", "relu"}
        The function f below; relu is the larger of its argument and 0.
    clip : float, optional
        Largest magnitude of the argument of f, which else is brought to it.

    Returns
    -------
    next_h : ndarray of shape (N, H)
        Hidden state after the step.
    cache : tuple
        For `rnn_step_backward`.

    Notes
    -----
    ::

        next_h = f(x @ Wx + prev_h @ Wh + b)        (1)
    """
    if not (type(x) is type(prev_h) is np.ndarray and x.ndim == prev_h.ndim == 2 and len(x) == len(prev_h)):
        return _broadcast_forward(rnn_step_forward, x, (prev_h,), Wx, Wh, b, activation=activation, clip=clip)
    z, free = np.dot(x, Wx) + np.dot(prev_h, Wh) + b, None
    if clip is not None:
        z, free = _bounded(z, clip)
    next_h = _activate(z, activation)  # (1)
    return next_h, (x, prev_h, Wx, Wh, next_h.copy(), activation, free)


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
    With z the argument of f in (1)::

        dz      = dnext_h * f'(z): 1 - next_h**2 for tanh, 1 where next_h > 0 and else 0 for relu,
                  and 0 where z was clipped                     (2)
        dx      = dz @ Wx.T         dprev_h = dz @ Wh.T     (3)
        dWx     = x.T @ dz          dWh     = prev_h.T @ dz     db = sum of dz over N   (4)
    """
    if type(cache) is _BroadcastCache:
        return _broadcast_backward(rnn_step_backward, (dnext_h,), cache)
    x, prev_h, Wx, Wh, next_h, activation, free = cache
    dz = _through_activation(dnext_h, next_h, activation)  # (2)
    if free is not None:
        dz = dz * free
    dx, dprev_h = np.dot(dz, Wx.T), np.dot(dz, Wh.T)  # (3)
    dWx, dWh, db = np.dot(x.T, dz), np.dot(prev_h.T, dz), dz.sum(axis=0)  # (4)
    return dx, dprev_h, dWx, dWh, db


def rnn_forward(
    x: np.ndarray,
    h0: np.ndarray | None,
    Wx: np.ndarray,
    Wh: np.ndarray,
    b: np.ndarray,
    *,
    activation: str = "tanh",
    clip: float | None = None,
    lengths: Any = None,
    reverse: bool = False,
    resets: Any = None,
    outputs: str = "all",
) -> ForwardResult[Cache, RNNState]:
    """Run a vanilla RNN over whole sequences.

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
        Input sequences.
    h0 : ndarray that broadcasts to (N, H), or None
        Hidden state before the first step; None is zero.
    Wx : ndarray of shape (D, H)
        Weights of the input.
    Wh : ndarray of shape (H, H)
        Weights of the hidden state.
    b : ndarray of shape (H,)
        Bias.
    activation, clip : optional
        The function f below, and the bound of its argument, as for `rnn_step_forward`.
    lengths, reverse, resets, outputs : optional
        Which steps, in which order; see above.

    Returns
    -------
    h : ndarray of shape (N, T, H), or (N, H)
        Hidden state after every step, or after the last one.
    cache : tuple
        For `rnn_backward`.

    The result has `state`, the `RNNState` after the last step, too.

    Notes
    -----
    For t = 0 .. T - 1, with h[-1] = h0::

        h[t] = f(x[t] @ Wx + h[t-1] @ Wh + b)    (5)
    """
    if lengths is not None or reverse or resets is not None or outputs == "last":
        run = partial(rnn_forward, Wx=Wx, Wh=Wh, b=b, activation=activation, clip=clip)
        return _forward_by_stretches(run, RNNState, x, {"h0": h0}, Wh, lengths, reverse, resets, outputs)
    if not (type(x) is type(h0) is np.ndarray):
        x, h0 = _sequence(x, h0, Wh)
    N, T, _ = x.shape
    H = Wh.shape[0]
    zx = _project(x, Wx, b)  # (N, T, H)
    states = np.empty((N, T + 1, H), dtype=np.result_type(zx, h0, Wh))  # h0 and h, in one array
    states[:, 0] = h0
    free = None if clip is None else np.empty((N, T, H), bool)
    for t in range(T):
        z = zx[:, t] + np.dot(states[:, t], Wh)
        if free is not None:
            z, free[:, t] = _bounded(z, clip)
        states[:, t + 1] = _activate(z, activation)  # (5)
    cache = x, h0, Wx, Wh, states, activation, free
    result: ForwardResult[Cache, RNNState] = ForwardResult((states[:, 1:].copy(), cache))
    result.make_state = lambda: RNNState(states[:, -1].copy())
    return result


def rnn_backward(dh: np.ndarray | None, cache: Cache, *, dstate: Any = None) -> SequenceGradients:
    """Propagate gradients back through whole sequences of a vanilla RNN.

    Parameters
    ----------
    dh : ndarray of shape (N, T, H) or (N, H), or None
        Gradient of the hidden state after every step, or after the last one; None is zero.
    cache : tuple
        From `rnn_forward`.
    dstate : RNNState or ndarray that broadcasts to (N, H), optional
        Gradient that arrives at the state after the last step.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of the shape of h0
    dWx : ndarray of shape (D, H)
    dWh : ndarray of shape (H, H)
    db : ndarray of shape (H,)

    Notes
    -----
    For t = T - 1 .. 0, where the gradient r that arrives from the following step starts at dstate and ends as dh0::

        dz[t] = (dh[t] + r) * f'(z[t])              (6), as in (2)
        r     = dz[t] @ Wh.T                        (7)

    and then, summed over all sequences and steps::

        dx = dz @ Wx.T      dWx = x.T @ dz      dWh = h[t-1].T @ dz[t]      db = sum of dz   (8)
    """
    if type(cache) is _StretchCache:
        return _backward_by_stretches(rnn_backward, dh, cache, dstate)
    x, h0, Wx, Wh, states, activation, free = cache
    dh, last = _of_all_steps(dh, states[:, 1:])
    N, T, H = dh.shape
    dz = np.empty((N, T, H), dtype=np.result_type(dh, states))
    r = np.zeros((N, H), dtype=dz.dtype)
    if dstate is not None:
        _add_arriving(dstate, r)
    if last is not None:
        r += last
    for t in reversed(range(T)):
        dz[:, t] = _through_activation(dh[:, t] + r, states[:, t + 1], activation)  # (6)
        if free is not None:
            dz[:, t] *= free[:, t]
        r = np.dot(dz[:, t], Wh.T)  # (7)
    dx, dWx, dWh, db = _accumulate(dz, x, states[:, :-1], Wx)  # (8)
    return SequenceGradients((dx, _sum_to(r, h0.shape), dWx, dWh, db))


def lstm_step_forward(
    x: np.ndarray,
    prev_h: np.ndarray,
    prev_c: np.ndarray,
    Wx: np.ndarray,
    Wh: np.ndarray,
    b: np.ndarray,
    *,
    projection: np.ndarray | None = None,
    peepholes: np.ndarray | None = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    clip: float | None = None,
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
    projection, peepholes, coupled, cell_clip, clip : optional
        As for `lstm_forward`.

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
    if not (
        type(x) is type(prev_h) is type(prev_c) is np.ndarray
        and x.ndim == prev_h.ndim == prev_c.ndim == 2
        and len(x) == len(prev_h) == len(prev_c)
    ):
        options: Any = {"projection": projection, "peepholes": peepholes, "coupled": coupled}
        options |= {"cell_clip": cell_clip, "clip": clip}
        return _broadcast_forward(lstm_step_forward, x, (prev_h, prev_c), Wx, Wh, b, **options)
    variant = _variant(peepholes, coupled, cell_clip, clip)
    z = np.dot(x, Wx) + np.dot(prev_h, Wh) + b  # (9)
    m, next_c, gates, free = _lstm_cell_forward(z, prev_c, variant)
    next_h = m if projection is None else np.dot(m, projection)  # (13')
    return next_h, next_c, (x, prev_h, prev_c, Wx, Wh, gates, next_c.copy(), variant, m, projection, free)


def lstm_step_backward(dnext_h: np.ndarray, dnext_c: np.ndarray, cache: Cache) -> LSTMStepGradients:
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

    and from dz the same products as in (3) and (4). With a projection, with m of (13')::

        dprojection = m.T @ dnext_h                         (19')

    and dnext_h @ projection.T takes the place of dnext_h in (14) to (19).
    """
    if type(cache) is _BroadcastCache:
        return _broadcast_backward(lstm_step_backward, (dnext_h, dnext_c), cache)
    x, prev_h, prev_c, Wx, Wh, gates, next_c, variant, m, projection, free = cache
    dm = dnext_h if projection is None else np.dot(dnext_h, projection.T)
    dz, dprev_c = _lstm_cell_backward(dm, dnext_c, gates, prev_c, next_c, variant, free)
    dx, dprev_h = np.dot(dz, Wx.T), np.dot(dz, Wh.T)  # (3)
    dWx, dWh, db = np.dot(x.T, dz), np.dot(prev_h.T, dz), dz.sum(axis=0)  # (4)
    gradients = LSTMStepGradients((dx, dprev_h, dprev_c, dWx, dWh, db))
    if variant is not None and not variant.is_clip_alone:
        gradients.dpeepholes = _dpeepholes(dz, prev_c, next_c, variant)
    if projection is not None:
        gradients.dprojection = np.dot(m.T, dnext_h)  # (19')
    return gradients


def lstm_forward(
    x: np.ndarray,
    h0: np.ndarray | None,
    Wx: np.ndarray,
    Wh: np.ndarray,
    b: np.ndarray,
    *,
    c0: np.ndarray | None = None,
    projection: np.ndarray | None = None,
    peepholes: np.ndarray | None = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    clip: float | None = None,
    lengths: Any = None,
    reverse: bool = False,
    resets: Any = None,
    outputs: str = "all",
) -> ForwardResult[Cache, LSTMState]:
    """Run an LSTM over whole sequences.

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
        Input sequences.
    h0 : ndarray that broadcasts to (N, H), or None
        Hidden state before the first step; None is zero.
    Wx : ndarray of shape (D, 4H)
        Weights of the input.
    Wh : ndarray of shape (H, 4H)
        Weights of the hidden state.
    b : ndarray of shape (4H,)
        Bias.
    c0 : ndarray that broadcasts to (N, H), optional
        Cell state before the first step; zero by default.
    projection : ndarray of shape (H, P), optional
        What makes the hidden state, (N, P) then; `Wh` is (P, 4H).
    peepholes : ndarray of shape (3, H), optional
        Weights by which the gates i, f and o see the cell state.
    coupled : bool, default False
        Whether f is 1 - i: weights and bias have but the blocks i, o, g, and peepholes the rows i and o.
    cell_clip : float, optional
        Largest magnitude of a cell state.
    clip : float, optional
        Largest magnitude of the arguments of sigmoid and tanh of the gates.
    lengths, reverse, resets, outputs : optional
        Which steps, in which order; see above.

    Returns
    -------
    h : ndarray of shape (N, T, H), or (N, H)
        Hidden state after every step, or after the last one.
    cache : tuple
        For `lstm_backward`.

    The result has `state`, the `LSTMState` after the last step, too.

    Notes
    -----
    Equations (9) to (13) for t = 0 .. T - 1, each with the states that the step before has left. With peepholes::

        i, f   = sigmoid(z_i + p_i * prev_c), sigmoid(z_f + p_f * prev_c)       (10')
        next_c = clip(f * prev_c + i * g, -cell_clip, cell_clip)                (12')
        o      = sigmoid(z_o + p_o * next_c)                                    (10'')

    with a `clip` the arguments of sigmoid and tanh in (10) and (11) are brought to magnitudes up to it, and have no
    gradient where that changes them; and with a projection::

        m      = o * tanh(next_c)       next_h = m @ projection                 (13')
    """
    if lengths is not None or reverse or resets is not None or outputs == "last":
        options: Any = {"projection": projection, "peepholes": peepholes, "coupled": coupled}
        options |= {"cell_clip": cell_clip, "clip": clip}
        run = partial(lstm_forward, Wx=Wx, Wh=Wh, b=b, **options)
        states = {"h0": h0, "c0": c0}
        widths = len(Wh), len(Wh) if projection is None else len(projection)
        return _forward_by_stretches(run, LSTMState, x, states, Wh, lengths, reverse, resets, outputs, widths)
    if not (type(x) is type(h0) is np.ndarray):
        x, h0 = _sequence(x, h0, Wh)
    if c0 is not None:
        c0 = _array(c0, Wh)
    variant = _variant(peepholes, coupled, cell_clip, clip)
    N, T, _ = x.shape
    P, H = Wh.shape[0], Wh.shape[1] // (3 if coupled else 4)
    zx = _project(x, Wx, b)  # (N, T, 4H)
    dtype = np.result_type(zx, h0, Wh) if c0 is None else np.result_type(zx, h0, c0, Wh)
    hidden = np.empty((N, T + 1, P), dtype)  # h0 and h, in one array
    made = hidden[:, 1:] if projection is None else np.empty((N, T, H), dtype)  # by the units
    cells = np.empty((N, T + 1, H), dtype)
    gates = np.empty((N, T, 4 * H), dtype)
    free = np.ones((0 if variant is None else N, T, 4 * H), bool)
    hidden[:, 0] = h0
    cells[:, 0] = 0 if c0 is None else c0
    for t in range(T):
        z = zx[:, t] + np.dot(hidden[:, t], Wh)  # (9)
        made[:, t], cells[:, t + 1], gates[:, t], free_gates = _lstm_cell_forward(z, cells[:, t], variant)
        if variant is not None:
            free[:, t] = free_gates
        if projection is not None:
            hidden[:, t + 1] = np.dot(made[:, t], projection)  # (13')
    cache = x, h0, c0, Wx, Wh, hidden, cells, gates, variant, made, projection, free
    result: ForwardResult[Cache, LSTMState] = ForwardResult((hidden[:, 1:].copy(), cache))
    result.make_state = lambda: LSTMState(hidden[:, -1].copy(), cells[:, -1].copy())
    return result


def lstm_backward(dh: np.ndarray | None, cache: Cache, *, dstate: Any = None) -> SequenceGradients:
    """Propagate gradients back through whole sequences of an LSTM.

    Parameters
    ----------
    dh : ndarray of shape (N, T, H) or (N, H), or None
        Gradient of the hidden state after every step, or after the last one; None is zero.
    cache : tuple
        From `lstm_forward`.
    dstate : LSTMState, optional
        Gradients that arrive at the state after the last step; they broadcast to (N, H), and None is zero.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of the shape of h0
    dWx : ndarray of shape (D, 4H)
    dWh : ndarray of shape (H, 4H)
    db : ndarray of shape (4H,)

    The result has `dc0`, the gradient of the first cell state, too, `dpeepholes` if there is a variant, and
    `dprojection` if there is a projection.

    Notes
    -----
    Equations (14) to (19) for t = T - 1 .. 0: the gradients that arrive from the following step start at dstate, and
    end as dh0 and dc0; the one of the hidden state is dz @ Wh.T. Then the sums of (8), and of (19').
    """
    if type(cache) is _StretchCache:
        return _backward_by_stretches(lstm_backward, dh, cache, dstate)
    x, h0, c0, Wx, Wh, hidden, cells, gates, variant, made, projection, free = cache
    dh, last = _of_all_steps(dh, hidden[:, 1:])
    (N, T, P), H = dh.shape, cells.shape[2]
    dz = np.empty((N, T, Wh.shape[1]), dtype=np.result_type(dh, gates))
    of_steps = np.empty((N, T, P), dtype=dz.dtype)
    r = np.zeros((N, P), dtype=dz.dtype)
    dc = np.zeros((N, H), dtype=dz.dtype)
    if dstate is not None:
        _add_arriving(dstate, r, dc)
    if last is not None:
        r += last
    for t in reversed(range(T)):
        of_steps[:, t] = dm = dh[:, t] + r
        if projection is not None:
            dm = np.dot(dm, projection.T)
        dz[:, t], dc = _lstm_cell_backward(dm, dc, gates[:, t], cells[:, t], cells[:, t + 1], variant, free[:, t])
        r = np.dot(dz[:, t], Wh.T)
    dx, dWx, dWh, db = _accumulate(dz, x, hidden[:, :-1], Wx)  # (8)
    gradients = SequenceGradients((dx, _sum_to(r, h0.shape), dWx, dWh, db))
    gradients.dc0 = dc if c0 is None else _sum_to(dc, c0.shape)
    if variant is not None and not variant.is_clip_alone:
        before, after = (a.reshape(N * T, H) for a in (cells[:, :-1], cells[:, 1:]))
        gradients.dpeepholes = _dpeepholes(dz.reshape(N * T, Wh.shape[1]), before, after, variant)
    if projection is not None:
        gradients.dprojection = np.dot(_rows(made).T, _rows(of_steps))  # (19')
    return gradients


def gru_step_forward(
    x: np.ndarray,
    prev_h: np.ndarray,
    Wx: np.ndarray,
    Wh: np.ndarray,
    b: np.ndarray,
    *,
    bh: np.ndarray | None = None,
    reset_after: bool = True,
    clip: float | None = None,
) -> tuple[np.ndarray, Cache]:
    """Advance a GRU by one step.

    Parameters
    ----------
    x : ndarray of shape (N, D)
        Input of this step.
    prev_h : ndarray of shape (N, H)
        Hidden state before it.
    Wx : ndarray of shape (D, 3H)
        Weights of the input.
    Wh : ndarray of shape (H, 3H)
        Weights of the hidden state.
    b : ndarray of shape (3H,)
        Bias, added to the product with the input.
    bh : ndarray of shape (3H,), optional
        Second bias, added to the product with the hidden state; zero by default.
    reset_after : bool
        Whether the reset gate r scales the product with the hidden state, or else the hidden state itself.
    clip : float, optional
        Largest magnitude of the arguments of sigmoid and tanh, which else are brought to it.

    Returns
    -------
    next_h : ndarray of shape (N, H)
        Hidden state after the step.
    cache : tuple
        For `gru_step_backward`.

    Notes
    -----
    ::

        r      = sigmoid(x @ Wx_r + b_r + prev_h @ Wh_r + bh_r)             (20)
        z      = sigmoid(x @ Wx_z + b_z + prev_h @ Wh_z + bh_z)             (21)
        q      = prev_h @ Wh_n + bh_n                                       (22), if reset_after
        n      = tanh(x @ Wx_n + b_n + r * q)                               (23), if reset_after
        q      = r * prev_h                                                 (24), otherwise
        n      = tanh(x @ Wx_n + b_n + q @ Wh_n + bh_n)                     (25), otherwise
        next_h = (1 - z) * n + z * prev_h                                   (26)
    """
    if not (type(x) is type(prev_h) is np.ndarray and x.ndim == prev_h.ndim == 2 and len(x) == len(prev_h)):
        return _broadcast_forward(gru_step_forward, x, (prev_h,), Wx, Wh, b, bh=bh, reset_after=reset_after, clip=clip)
    if bh is None:
        bh = np.zeros_like(b)
    next_h, gates, q, free = _gru_cell_forward(np.dot(x, Wx) + b, prev_h, Wh, bh, reset_after, clip)
    return next_h, (x, prev_h, Wx, Wh, gates, q, reset_after, free)


def gru_step_backward(dnext_h: np.ndarray, cache: Cache) -> StepGradients:
    """Propagate a gradient back through one step of a GRU.

    Parameters
    ----------
    dnext_h : ndarray of shape (N, H)
        Gradient of the hidden state after the step.
    cache : tuple
        From `gru_step_forward`.

    Returns
    -------
    dx : ndarray of shape (N, D)
    dprev_h : ndarray of shape (N, H)
    dWx : ndarray of shape (D, 3H)
    dWh : ndarray of shape (H, 3H)
    db : ndarray of shape (3H,)

    The result has `dbh`, the gradient of the second bias, too, also where there was none.

    Notes
    -----
    With zx_r, zx_z, zx_n the sums of input and bias, ``x @ Wx + b``, and zh_r, zh_z, zh_n those of state and second
    bias::

        dzx_n   = dnext_h * (1 - z) * (1 - n**2)                                    (27)
        dzx_z   = dzh_z = dnext_h * (prev_h - n) * z * (1 - z)                      (28)
        dzx_r   = dzh_r = dq * u * r * (1 - r)                                      (29)
        dprev_h = dnext_h * z + dzh_r @ Wh_r.T + dzh_z @ Wh_z.T + ...               (30)

    if reset_after::

        dq      = dzx_n     u = q           ...   = dzh_n @ Wh_n.T                  (31)
        dzh_n   = dzx_n * r                 dWh_n = prev_h.T @ dzh_n                (32)

    otherwise::

        dq      = dzx_n @ Wh_n.T            u = prev_h      ...   = dq * r          (33)
        dzh_n   = dzx_n                     dWh_n = q.T @ dzh_n                     (34)

    and ``dbh`` is the sum of dzh over N, as ``db`` that of dzx.
    """
    if type(cache) is _BroadcastCache:
        return _broadcast_backward(gru_step_backward, (dnext_h,), cache)
    x, prev_h, Wx, Wh, gates, q, reset_after, free = cache
    dzx, dzh, dprev_h = _gru_cell_backward(dnext_h, gates, q, prev_h, Wh, reset_after, free)
    dx, dWx, db = np.dot(dzx, Wx.T), np.dot(x.T, dzx), dzx.sum(axis=0)
    gradients = StepGradients((dx, dprev_h, dWx, _gru_dWh(dzh, prev_h, q, reset_after), db))
    gradients.dbh = dzh.sum(axis=0)
    return gradients


def gru_forward(
    x: np.ndarray,
    h0: np.ndarray | None,
    Wx: np.ndarray,
    Wh: np.ndarray,
    b: np.ndarray,
    *,
    bh: np.ndarray | None = None,
    reset_after: bool = True,
    clip: float | None = None,
    lengths: Any = None,
    reverse: bool = False,
    resets: Any = None,
    outputs: str = "all",
) -> ForwardResult[Cache, GRUState]:
    """Run a GRU over whole sequences.

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
        Input sequences.
    h0 : ndarray that broadcasts to (N, H), or None
        Hidden state before the first step; None is zero.
    Wx : ndarray of shape (D, 3H)
        Weights of the input.
    Wh : ndarray of shape (H, 3H)
        Weights of the hidden state.
    b : ndarray of shape (3H,)
        Bias, added to the product with the input.
    bh : ndarray of shape (3H,), optional
        Second bias, added to the product with the hidden state; zero by default.
    reset_after : bool
        Whether the reset gate r scales the product with the hidden state, or else the hidden state itself.
    clip : float, optional
        Largest magnitude of the arguments of sigmoid and tanh.
    lengths, reverse, resets, outputs : optional
        Which steps, in which order; see above.

    Returns
    -------
    h : ndarray of shape (N, T, H), or (N, H)
        Hidden state after every step, or after the last one.
    cache : tuple
        For `gru_backward`.

    The result has `state`, the `GRUState` after the last step, too.

    Notes
    -----
    Equations (20) to (26) for t = 0 .. T - 1, each with the state that the step before has left.
    """
    if lengths is not None or reverse or resets is not None or outputs == "last":
        run = partial(gru_forward, Wx=Wx, Wh=Wh, b=b, bh=bh, reset_after=reset_after, clip=clip)
        return _forward_by_stretches(run, GRUState, x, {"h0": h0}, Wh, lengths, reverse, resets, outputs)
    if not (type(x) is type(h0) is np.ndarray):
        x, h0 = _sequence(x, h0, Wh)
    N, T, _ = x.shape
    H = Wh.shape[0]
    if bh is None:
        bh = np.zeros_like(b)
    zx = _project(x, Wx, b)  # (N, T, 3H)
    dtype = np.result_type(zx, h0, Wh, bh)
    states = np.empty((N, T + 1, H), dtype)  # h0 and h, in one array
    gates = np.empty((N, T, 3 * H), dtype)
    q = np.empty((N, T, H), dtype)
    states[:, 0] = h0
    free = None if clip is None else np.empty((N, T, 3 * H), bool)
    for t in range(T):
        step = _gru_cell_forward(zx[:, t], states[:, t], Wh, bh, reset_after, clip)
        states[:, t + 1], gates[:, t], q[:, t], free_gates = step
        if free is not None:
            free[:, t] = free_gates
    cache = x, h0, Wx, Wh, states, gates, q, reset_after, free
    result: ForwardResult[Cache, GRUState] = ForwardResult((states[:, 1:].copy(), cache))
    result.make_state = lambda: GRUState(states[:, -1].copy())
    return result


def gru_backward(dh: np.ndarray | None, cache: Cache, *, dstate: Any = None) -> SequenceGradients:
    """Propagate gradients back through whole sequences of a GRU.

    Parameters
    ----------
    dh : ndarray of shape (N, T, H) or (N, H), or None
        Gradient of the hidden state after every step, or after the last one; None is zero.
    cache : tuple
        From `gru_forward`.
    dstate : GRUState or ndarray that broadcasts to (N, H), optional
        Gradient that arrives at the state after the last step.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of the shape of h0
    dWx : ndarray of shape (D, 3H)
    dWh : ndarray of shape (H, 3H)
    db : ndarray of shape (3H,)

    The result has `dbh`, the gradient of the second bias, too, also where there was none.

    Notes
    -----
    Equations (27) to (34) for t = T - 1 .. 0: the gradient that arrives from the following step starts at dstate and
    ends as dh0. Then the products and sums over all steps, as in (8).
    """
    if type(cache) is _StretchCache:
        return _backward_by_stretches(gru_backward, dh, cache, dstate)
    x, h0, Wx, Wh, states, gates, q, reset_after, free = cache
    dh, last = _of_all_steps(dh, states[:, 1:])
    N, T, H = dh.shape
    dzx = np.empty((N, T, 3 * H), dtype=np.result_type(dh, gates))
    dzh = np.empty_like(dzx)
    dstep = np.zeros((N, H), dtype=dzx.dtype)
    if dstate is not None:
        _add_arriving(dstate, dstep)
    if last is not None:
        dstep += last
    for t in reversed(range(T)):
        free_gates = None if free is None else free[:, t]
        dzx[:, t], dzh[:, t], dstep = _gru_cell_backward(
            dh[:, t] + dstep, gates[:, t], q[:, t], states[:, t], Wh, reset_after, free_gates
        )
    dx, dWx, _, db = _accumulate(dzx, x, states[:, :-1], Wx)
    dWh = _gru_dWh(_rows(dzh), _rows(states[:, :-1]), _rows(q), reset_after)
    gradients = SequenceGradients((dx, _sum_to(dstep, h0.shape), dWx, dWh, db))
    gradients.dbh = _rows(dzh).sum(axis=0)
    return gradients


def word_embedding_forward(x: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Look up the vector of every word.

    Parameters
    ----------
    x : ndarray of shape (N, T), or any other, integer
        Words, each from 0 to V - 1.
    W : ndarray of shape (V, D)
        One vector per word.

    Returns
    -------
    out : ndarray of shape (N, T, D): the shape of x, and D
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
    dout : ndarray of shape (N, T, D): the shape of the words, and D
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
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, verbose: bool = False, *, reduction: str = "batchmean"
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
    reduction : {"batchmean", "mean", "sum"}
        What the sum over the steps is divided by: N, the sum of `mask`, or 1; by 1 too if that is 0.

    Returns
    -------
    loss : scalar
        Summed over the steps, by default averaged over the N sequences; 0 if there are none.
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
        loss     = sum over n, t of -mask * log_p[y] / divisor
        dx[v]    = (exp(log_p[v]) - (1 if v == y else 0)) * mask / divisor
    """
    counts = mask != 0
    scores, words = x[counts], y[counts]  # (K, V) and (K,), of the K steps that count
    weight = mask[counts].astype(x.dtype) / _divisor(reduction, mask, x.dtype)
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


def _divisor(reduction: str, mask: np.ndarray, dtype: np.dtype) -> Any:
    """What a loss is divided by."""
    divisors = {"batchmean": len(mask), "mean": mask.sum(dtype=dtype), "sum": 1}
    return divisors[reduction] or 1


def temporal_affine_softmax_loss(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, y: np.ndarray, mask: np.ndarray, *, reduction: str = "batchmean"
) -> tuple[np.floating, np.ndarray, np.ndarray, np.ndarray]:
    """Compute the masked cross-entropy of softmax(x @ w + b) against the words y, and its gradients.

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
        Input vectors; not read where `mask` is 0.
    w : ndarray of shape (D, V)
        Weights.
    b : ndarray of shape (V,)
        Bias.
    y, mask, reduction
        As in `temporal_softmax_loss`.

    Returns
    -------
    loss : scalar
    dx : ndarray of shape (N, T, D)
    dw : ndarray of shape (D, V)
    db : ndarray of shape (V,)
        Its gradients.

    Notes
    -----
    The steps that count are one sequence of an affine layer, whose loss is then divided.
    """
    counts = mask != 0
    scores, cache = temporal_affine_forward(x[counts][None], w, b)
    loss, dscores = temporal_softmax_loss(scores, y[counts][None], mask[counts][None], reduction="sum")
    divisor = _divisor(reduction, mask, x.dtype)
    dx = np.zeros_like(x)
    drows, dw, db = temporal_affine_backward(dscores / divisor, cache)
    dx[counts] = drows[0]
    return loss / divisor, dx, dw, db


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


def _bounded(z: np.ndarray, clip: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bring arguments of activations to magnitudes up to a clip; return also where that leaves them free."""
    return np.clip(z, -clip, clip), np.abs(z) < clip


def _activate(z: np.ndarray, activation: str) -> np.ndarray:
    """Apply tanh or relu."""
    return np.tanh(z) if activation == "tanh" else np.maximum(z, 0)


def _through_activation(dh: np.ndarray, h: np.ndarray, activation: str) -> np.ndarray:
    """Have the gradient of the argument of tanh or relu, of that of its value h."""
    return dh * (1 - h**2) if activation == "tanh" else np.where(h > 0, dh, 0)


class _Variant(NamedTuple):
    """Of an LSTM."""

    peepholes: np.ndarray | None
    coupled: bool
    bound: float
    clip: float
    is_clip_alone: bool
    """Whether there is nothing but the clip, and so no gradient of peepholes."""

    def seen(self, gate: str) -> Any:
        """Peephole of a gate."""
        return 0 if self.peepholes is None else self.peepholes[("io" if self.coupled else "ifo").index(gate)]


def _variant(
    peepholes: np.ndarray | None, coupled: bool, cell_clip: float | None, clip: float | None
) -> _Variant | None:
    """What an LSTM is beside the plain one; None for that."""
    if peepholes is None and not coupled and cell_clip is clip is None:
        return None
    bound, of_arguments = (np.inf if limit is None else limit for limit in (cell_clip, clip))
    return _Variant(peepholes, coupled, bound, of_arguments, peepholes is cell_clip is None and not coupled)


def _lstm_cell_forward(
    z: np.ndarray, prev_c: np.ndarray, variant: _Variant | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Apply (10) to (13) to pre-activations (N, 4H); return next_h, next_c, the gates (N, 4H), and which are free."""
    H = prev_c.shape[1]
    if variant is not None:
        z_i, *z_f, z_o, z_g = np.split(z, z.shape[1] // H, axis=1)
        z_i, free_i = _bounded(z_i + variant.seen("i") * prev_c, variant.clip)
        z_g, free_g = _bounded(z_g, variant.clip)
        i, g, f, free_f = sigmoid(z_i), np.tanh(z_g), 1 - sigmoid(z_i), free_i
        if not variant.coupled:
            bounded_f, free_f = _bounded(z_f[0] + variant.seen("f") * prev_c, variant.clip)
            f = sigmoid(bounded_f)
        next_c = np.clip(f * prev_c + i * g, -variant.bound, variant.bound)
        z_o, free_o = _bounded(z_o + variant.seen("o") * next_c, variant.clip)
        o = sigmoid(z_o)
        gates, free = (np.concatenate(parts, axis=1) for parts in ([i, f, o, g], [free_i, free_f, free_o, free_g]))
        return o * np.tanh(next_c), next_c, gates, free
    gates = np.concatenate([sigmoid(z[:, : 3 * H]), np.tanh(z[:, 3 * H :])], axis=1)
    i, f, o, g = np.split(gates, 4, axis=1)
    next_c = f * prev_c + i * g
    return o * np.tanh(next_c), next_c, gates, None


def _lstm_cell_backward(
    dnext_h: np.ndarray,
    dnext_c: np.ndarray,
    gates: np.ndarray,
    prev_c: np.ndarray,
    next_c: np.ndarray,
    variant: _Variant | None,
    free: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Apply (14) to (19); return the gradients dz (N, 4H) and dprev_c."""
    i, f, o, g = np.split(gates, 4, axis=1)
    y = np.tanh(next_c)
    dc = dnext_c + dnext_h * o * (1 - y**2)
    if variant is not None:
        free_i, free_f, free_o, free_g = np.split(free, 4, axis=1)
        dz_o = dnext_h * y * o * (1 - o) * free_o
        dc = np.where(np.abs(next_c) < variant.bound, dc + dz_o * variant.seen("o"), 0)
        if variant.coupled:
            dz_i = dc * (g - prev_c) * i * (1 - i) * free_i
            dz = np.concatenate([dz_i, dz_o, dc * i * (1 - g**2) * free_g], axis=1)
            return dz, dc * f + dz_i * variant.seen("i")
        dz_i, dz_f = dc * g * i * (1 - i) * free_i, dc * prev_c * f * (1 - f) * free_f
        dz = np.concatenate([dz_i, dz_f, dz_o, dc * i * (1 - g**2) * free_g], axis=1)
        return dz, dc * f + dz_i * variant.seen("i") + dz_f * variant.seen("f")
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


def _dpeepholes(dz: np.ndarray, prev_c: np.ndarray, next_c: np.ndarray, variant: _Variant) -> np.ndarray:
    """Gradient of the peepholes, of rows (N, 4H), (N, H) and (N, H)."""
    *before, dz_o, _ = np.split(dz, dz.shape[1] // prev_c.shape[1], axis=1)
    return np.stack([(d * prev_c).sum(axis=0) for d in before] + [(dz_o * next_c).sum(axis=0)])


def _gru_cell_forward(
    zx: np.ndarray, prev_h: np.ndarray, Wh: np.ndarray, bh: np.ndarray, reset_after: bool, clip: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Apply (20) to (26) to zx = x @ Wx + b (N, 3H); return next_h, the gates (N, 3H), q (N, H), and which are free."""
    H, free = prev_h.shape[1], None
    if reset_after:
        zh = np.dot(prev_h, Wh) + bh
        z_rz = zx[:, : 2 * H] + zh[:, : 2 * H]
        if clip is not None:
            z_rz, free = _bounded(z_rz, clip)
        rz = sigmoid(z_rz)
        r, q = rz[:, :H], zh[:, 2 * H :]
        z_n = zx[:, 2 * H :] + r * q
    else:
        z_rz = zx[:, : 2 * H] + np.dot(prev_h, Wh[:, : 2 * H]) + bh[: 2 * H]
        if clip is not None:
            z_rz, free = _bounded(z_rz, clip)
        rz = sigmoid(z_rz)
        r = rz[:, :H]
        q = r * prev_h
        z_n = zx[:, 2 * H :] + np.dot(q, Wh[:, 2 * H :]) + bh[2 * H :]
    if clip is not None:
        z_n, free_n = _bounded(z_n, clip)
        free = np.concatenate([free, free_n], axis=1)
    n, z = np.tanh(z_n), rz[:, H:]
    return (1 - z) * n + z * prev_h, np.concatenate([rz, n], axis=1), q, free


def _gru_cell_backward(
    dnext_h: np.ndarray,
    gates: np.ndarray,
    q: np.ndarray,
    prev_h: np.ndarray,
    Wh: np.ndarray,
    reset_after: bool,
    free: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply (27) to (34); return the gradients dzx and dzh (N, 3H), and dprev_h."""
    H = prev_h.shape[1]
    r, z, n = np.split(gates, 3, axis=1)
    dn = dnext_h * (1 - z) * (1 - n**2)
    dz = dnext_h * (prev_h - n) * z * (1 - z)
    r_left = 1 - r
    if free is not None:
        r_left, dz, dn = (part * there for part, there in zip((r_left, dz, dn), np.split(free, 3, axis=1), strict=True))
    if reset_after:
        dr = dn * q * r * r_left
        dzh = np.concatenate([dr, dz, dn * r], axis=1)
        return np.concatenate([dr, dz, dn], axis=1), dzh, dnext_h * z + np.dot(dzh, Wh.T)
    dq = np.dot(dn, Wh[:, 2 * H :].T)
    dzh = np.concatenate([dq * prev_h * r * r_left, dz, dn], axis=1)
    return dzh, dzh, dnext_h * z + np.dot(dzh[:, : 2 * H], Wh[:, : 2 * H].T) + dq * r


def _gru_dWh(dzh: np.ndarray, prev_h: np.ndarray, q: np.ndarray, reset_after: bool) -> np.ndarray:
    """Compute dWh from the rows of all steps, by (32) or (34)."""
    H = prev_h.shape[1]
    if reset_after:
        return np.dot(prev_h.T, dzh)
    return np.concatenate([np.dot(prev_h.T, dzh[:, : 2 * H]), np.dot(q.T, dzh[:, 2 * H :])], axis=1)


def _array(a: Any, W: np.ndarray) -> np.ndarray:
    """Have a as an array; a number takes the dtype of W, as it would beside W."""
    return np.asarray(a, W.dtype if np.ndim(a) == 0 else None)


def _sequence(x: Any, h0: Any, Wh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Have the input and the first state of a sequence as arrays."""
    x = np.asarray(x)
    return x, np.zeros((len(x), len(Wh)), x.dtype) if h0 is None else _array(h0, Wh)


def _add_arriving(dstate: Any, *gradients: np.ndarray) -> None:
    """Add what arrives at the last state to the gradients of its arrays; a state of one array may be that array."""
    arriving = dstate if isinstance(dstate, tuple) else (dstate,)
    for gradient, more in zip(gradients, arriving, strict=True):
        if more is not None:
            gradient += more


def _sum_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum a gradient over the axes along which an array of that shape was broadcast."""
    if gradient.shape == shape:
        return gradient
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(axis for axis, size in enumerate(shape) if size != gradient.shape[axis])
    return gradient.sum(axis=stretched, keepdims=True)


def _of_all_steps(dh: np.ndarray | None, h: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Have the gradient of the hidden states (N, T, H), which may be zero, and that of the last one (N, H) alone."""
    if dh is not None and np.ndim(dh) == 3:
        return dh, None
    return np.zeros(h.shape, h.dtype if dh is None else np.result_type(dh, h)), dh


class _StretchCache(NamedTuple):
    """Cache of sequences that were taken apart."""

    x: np.ndarray
    widths: tuple[int, ...]  # columns of states
    states: tuple[Any, ...]  # before the first step, as they were given
    stretches: list[list[tuple[np.ndarray, Cache]]]  # of each sequence: steps and cache of each stretch
    is_kept: list[bool]  # whether the first state of a sequence reaches its first stretch


def _forward_by_stretches(
    run: Callable[..., Any],
    state_of: Callable[..., Any],
    x: Any,
    states: dict[str, Any],
    Wh: np.ndarray,
    lengths: Any,
    reverse: bool,
    resets: Any,
    outputs: str,
    widths: tuple[int, ...] = (),
) -> ForwardResult[Any, Any]:
    """Run each stretch of each sequence by itself; states have so many columns, or else those of the rows of Wh."""
    x = np.asarray(x)
    (N, T, _), widths = x.shape, widths or (len(Wh),)
    if N == 0:
        whole = run(x, **states)
        result = ForwardResult((whole.state[0] if outputs == "last" else whole.h, whole.cache))
        result.make_state = whole.make_state
        return result
    given = tuple(None if state is None else _array(state, Wh) for state in states.values())
    dtype = np.result_type(x, Wh, *(state for state in given if state is not None))
    wholes = [
        np.broadcast_to(0 if state is None else state, (N, width)) for state, width in zip(given, widths, strict=True)
    ]
    lasts = [np.array(whole, dtype) for whole in wholes]
    h = np.zeros((N, T, widths[0]), dtype)
    cache = _StretchCache(x, widths, given, [], [])
    for n in range(N):
        steps = np.arange(T if lengths is None else lengths[n])[:: -1 if reverse else 1]
        begins = np.zeros(len(steps), bool) if resets is None else np.asarray(resets)[n, steps]
        state = tuple(last[n : n + 1] for last in lasts)
        cache.stretches.append([])
        cache.is_kept.append(not begins[:1].any())
        for number, stretch in enumerate(np.split(steps, np.flatnonzero(begins[1:]) + 1)):
            if number > 0 or not cache.is_kept[n]:
                state = tuple(np.zeros_like(part) for part in state)
            result = run(x[n : n + 1, stretch], **dict(zip(states, state, strict=True)))
            h[n, stretch], state = result.h[0], result.state
            cache.stretches[n].append((stretch, result.cache))
        for last, part in zip(lasts, state, strict=True):
            last[n] = part[0]
    result = ForwardResult((lasts[0].copy() if outputs == "last" else h, cache))
    result.make_state = lambda: state_of(*lasts)
    return result


def _backward_by_stretches(
    back: Callable[..., Any], dh: np.ndarray | None, cache: _StretchCache, dstate: Any
) -> SequenceGradients:
    """Propagate gradients back through each stretch of each sequence."""
    x, widths, given, stretches, is_kept = cache
    N = len(x)
    arriving = (None,) * len(given) if dstate is None else dstate if isinstance(dstate, tuple) else (dstate,)
    dx, totals, firsts = np.zeros_like(x), None, []
    for n in range(N):
        state = [
            np.zeros((1, width), x.dtype) if d is None else np.broadcast_to(d, (N, width))[n : n + 1]
            for d, width in zip(arriving, widths, strict=True)
        ]
        if dh is not None and np.ndim(dh) == 2:
            state[0] = state[0] + dh[n : n + 1]
        for number in reversed(range(len(stretches[n]))):
            steps, tape = stretches[n][number]
            outside = None if dh is None or np.ndim(dh) == 2 else dh[n : n + 1, steps]
            gradients = back(outside, tape, dstate=tuple(state))
            dx[n, steps] = gradients.dx[0]
            state = [gradients.dh0, *([gradients.dc0] if len(given) > 1 else [])]
            if number > 0 or not is_kept[n]:
                state = [np.zeros_like(part) for part in state]
            further = [name for name in ("dbh", "dpeepholes", "dprojection") if hasattr(gradients, name)]
            sums = [*gradients[2:], *(getattr(gradients, name) for name in further)]
            totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        firsts.append(state)
    first = [np.concatenate(parts) for parts in zip(*firsts, strict=True)]
    first = [d if s is None else _sum_to(d, s.shape) for d, s in zip(first, given, strict=True)]
    dWx, dWh, db, *others = totals or []
    result = SequenceGradients((dx, first[0], dWx, dWh, db))
    if len(given) > 1:
        result.dc0 = first[1]
    for name, total in zip(further, others, strict=True):
        setattr(result, name, total)
    return result


class _BroadcastCache(NamedTuple):
    """Cache of a step whose input and states were broadcast to matrices first."""

    cache: Cache
    given: list[tuple[int, ...]]  # shapes of input and states
    lead: tuple[int, ...]  # shape of next_h but for its last axis


def _broadcast_forward(
    step: Callable[..., Any], x: Any, states: tuple[Any, ...], Wx: np.ndarray, Wh: np.ndarray, *b: Any, **options: Any
) -> tuple[Any, ...]:
    """Take a step with input and states broadcast to matrices of N rows, and give the results their natural shape."""
    arrays = [_array(a, Wh) for a in (x, *states)]
    lead = np.broadcast_shapes(*(a.shape[:-1] for a in arrays))
    projection = options.get("projection")
    of_states = len(Wh), len(Wh) if projection is None else len(projection)
    widths = [arrays[0].shape[-1], *of_states[: len(states)]]
    rows = np.prod(lead, dtype=int)
    matrices = [
        np.broadcast_to(a, (*lead, width)).reshape(rows, width) for a, width in zip(arrays, widths, strict=True)
    ]
    *results, cache = step(*matrices, Wx, Wh, *b, **options)
    natural = [result.reshape(*lead, result.shape[1]) for result in results]
    return *natural, _BroadcastCache(cache, [a.shape for a in arrays], lead)


def _broadcast_backward(step: Callable[..., Any], upstream: tuple[Any, ...], cache: _BroadcastCache) -> Any:
    """Propagate gradients back through `_broadcast_forward`; sum them where an array was broadcast."""
    matrices = [
        np.broadcast_to(_array(d, state), (*cache.lead, state.shape[1])).reshape(state.shape)
        for d, state in zip(upstream, cache.cache[1:], strict=False)
    ]
    gradients = step(*matrices, cache.cache)
    natural = [
        _sum_to(d.reshape(*cache.lead, d.shape[1]), shape) for d, shape in zip(gradients, cache.given, strict=False)
    ]
    everything = *natural, *gradients[len(natural) :]
    if isinstance(gradients, StepGradients | LSTMStepGradients):
        everything = type(gradients)(everything)
        vars(everything).update(vars(gradients))
    return everything
