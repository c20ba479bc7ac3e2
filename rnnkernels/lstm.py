"""The LSTM: over whole sequences, and step by step."""

from typing import Any, Literal, Unpack, overload

import numpy as np

from rnnkernels import _recurrent, _sequence
from rnnkernels._caches import RecurrentCache
from rnnkernels._checks.cells import check_peepholes, check_projection
from rnnkernels._results import (
    ForwardResult,
    LSTMOptions,
    LSTMState,
    LSTMStepGradients,
    LSTMStepOptions,
    SequenceGradients,
)
from rnnkernels.kernels.lstm import CELL, COUPLED, COUPLED_PROJECTED, PEEPHOLE, PEEPHOLE_PROJECTED, PROJECTED


class LSTMCache(RecurrentCache):
    """What the backward pass of an LSTM needs; see `RecurrentCache` for its fields."""

    cell = CELL

    @property
    def i(self) -> np.ndarray:
        """Input gate of shape (N, T, H), a copy."""
        return self._kept("i")

    @property
    def f(self) -> np.ndarray:
        """Forget gate of shape (N, T, H), a copy."""
        return self._kept("f")

    @property
    def o(self) -> np.ndarray:
        """Output gate of shape (N, T, H), a copy."""
        return self._kept("o")

    @property
    def g(self) -> np.ndarray:
        """Candidate cell state of shape (N, T, H), a copy."""
        return self._kept("g")

    @property
    def c(self) -> np.ndarray:
        """Cell states after each step, of shape (N, T, H), a copy."""
        return self._tracked()


class LSTMPeepholeCache(LSTMCache):
    """What the backward pass of an LSTM with peepholes or a clip needs; see `RecurrentCache` for its fields."""

    cell = PEEPHOLE


class LSTMCoupledCache(LSTMCache):
    """What the backward pass of an LSTM with coupled gates needs; see `RecurrentCache` for its fields."""

    cell = COUPLED

    @property
    def f(self) -> np.ndarray:
        """Forget gate of shape (N, T, H), 1 - i."""
        return 1 - self.i


class LSTMProjectedCache(LSTMCache):
    """What the backward pass of an LSTM with a projection needs; see `RecurrentCache` for its fields."""

    cell = PROJECTED


class LSTMPeepholeProjectedCache(LSTMCache):
    """The same with peepholes or a clip, too."""

    cell = PEEPHOLE_PROJECTED


class LSTMCoupledProjectedCache(LSTMCoupledCache):
    """The same with coupled gates, too."""

    cell = COUPLED_PROJECTED


FAMILY = _recurrent.family(CELL, LSTMCache, LSTMState)
VARIANTS = {
    cache: _recurrent.family(cache.cell, cache, LSTMState)
    for cache in (
        *(LSTMPeepholeCache, LSTMCoupledCache),
        *(LSTMProjectedCache, LSTMPeepholeProjectedCache, LSTMCoupledProjectedCache),
    )
}
"""Families by their caches."""


def family(
    projection: Any, peepholes: Any, coupled: bool, cell_clip: float | None, clip: float | None = None
) -> _recurrent.Family:
    """That of the cell with what is given, or not None."""
    if clip is not None:
        return _recurrent.clipped(family(projection, peepholes, coupled, cell_clip), clip)
    if peepholes is None and cell_clip is None and not coupled:
        return FAMILY if projection is None else VARIANTS[LSTMProjectedCache]
    if projection is None:
        return VARIANTS[LSTMCoupledCache if coupled else LSTMPeepholeCache]
    return VARIANTS[LSTMCoupledProjectedCache if coupled else LSTMPeepholeProjectedCache]


def _family_of(cache: Any) -> _recurrent.Family:
    """Of which a cache is; the plain one for what is none."""
    return VARIANTS.get(type(cache), FAMILY)


def _biases(of: _recurrent.Family, b: Any, projection: Any, peepholes: Any, cell_clip: Any, Wh: Any) -> tuple[Any, ...]:
    """Biases of the cell, and a flat projection."""
    biases = (b, check_peepholes(of.cell, peepholes, cell_clip, Wh)) if of.cell.own else (b,)
    return (*biases, check_projection(of.cell, projection, b)) if of.cell.projected else biases


@overload
def lstm_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    c0: Any = None,
    keep_cache: Literal[True] = True,
    **options: Unpack[LSTMOptions],
) -> ForwardResult[LSTMCache, LSTMState]: ...
@overload
def lstm_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    c0: Any = None,
    keep_cache: Literal[False],
    **options: Unpack[LSTMOptions],
) -> ForwardResult[None, LSTMState]: ...
@overload
def lstm_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    c0: Any = None,
    keep_cache: bool,
    **options: Unpack[LSTMOptions],
) -> ForwardResult[LSTMCache | None, LSTMState]: ...
def lstm_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    c0: Any = None,
    projection: Any = None,
    peepholes: Any = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    clip: float | None = None,
    lengths: Any = None,
    reverse: bool = False,
    resets: Any = None,
    outputs: Literal["all", "last"] = "all",
    checkpoint_every: int | None = None,
    memory_budget: int | None = None,
    keep_cache: bool = True,
    num_threads: int | None = None,
) -> ForwardResult[LSTMCache | None, LSTMState]:
    """Run an LSTM over whole sequences.

    Parameters
    ----------
    x : array_like of shape (N, T, D)
        Input sequences, float32 or float64.
    h0 : array_like that broadcasts to (N, H), or None
        Hidden state before the first step; None is zero. It is converted to the dtype of the others.
    Wx : array_like of shape (D, 4H)
        Weights of the input, gate blocks in the order i, f, o, g.
    Wh : array_like of shape (H, 4H)
        Weights of the hidden state, same order.
    b : array_like of shape (4H,)
        Bias, same order.
    c0 : array_like that broadcasts to (N, H), optional
        Cell state before the first step; zero without it.
    projection : array_like of shape (H, P), optional
        Weights that make the hidden state of what the H units make. It has P columns then, and so have `h0`, `h` and
        whatever else is of hidden states; `Wh` is of shape (P, 4H).
    peepholes : array_like of shape (3, H), optional
        Weights by which the gates i, f and o see the cell state: i and f before the step, o after it.
    coupled : bool, default False
        Whether f is 1 - i: weights and bias have but the blocks i, o, g, 3H columns, and peepholes the rows i and o.
    cell_clip : float, optional
        Largest magnitude of a cell state; what exceeds it is cut off, and has no gradient.
    clip : float, optional
        Largest magnitude of what goes into the activations of gates, of the candidate, too, as that of ONNX nodes; what
        exceeds it is cut off, and has no gradient.
    lengths : array_like of integers of shape (N,), optional
        Valid steps of each sequence, 0 to T, in any order; T without it. The steps behind them are not read, take no
        time, and are zero in each result.
    reverse : bool, default False
        Whether to go from the last valid step of each sequence to its first; `h` has the order of `x` all the same.
    resets : array_like of booleans of shape (N, T), optional
        Steps before which the state of a sequence is set to zero, as where an episode begins.
    outputs : {"all", "last"}, default "all"
        Whether `h` has all steps or is the last hidden state only, (N, H).
    checkpoint_every : int, optional
        Keep states about every so many steps, and not what each step leaves: the cache is small, and the backward pass
        runs forward once more, to the same bits.
    memory_budget : int, optional
        The same with as many steps as keep what is kept, at any time, within so many bytes.
    keep_cache : bool, default True
        Whether to keep what `lstm_backward` needs. Without it, memory beyond `h` does not grow with T.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    h : ndarray of shape (N, T, H), or (N, H)
        Hidden states after each step, or after the last one, in the common dtype of `x` and the weights.
    cache : LSTMCache or None
        For `lstm_backward`; None if `keep_cache` is false.

    The result has `state`, the `LSTMState` after the last step of each sequence, too.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    lstm_backward : Gradients.
    rnnkernels.reference.lstm_forward : The same in plain NumPy.

    Notes
    -----
    For each step t, with h[-1] = h0 and c[-1] = c0::

        z[t]    = b + x[t] @ Wx + h[t-1] @ Wh
        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)
        g       = tanh(z_g)
        c[t]    = f * c[t-1] + i * g
        h[t]    = o * tanh(c[t])

    and with peepholes and a clip::

        i, f    = sigmoid(z_i + p_i * c[t-1]), sigmoid(z_f + p_f * c[t-1])
        c[t]    = clip(f * c[t-1] + i * g, -cell_clip, cell_clip)
        o       = sigmoid(z_o + p_o * c[t])

    with a `clip`, what goes into sigmoid and tanh for the gates is clip(.., -clip, clip), and with a projection::

        h[t]    = (o * tanh(c[t])) @ projection

    Each element of z sums the bias, the products with x[t] and those with h[t-1], in this order, in fixed parts and by
    fused multiply-add: the bits of h depend neither on the other sequences nor on how steps are divided among calls.

    References
    ----------
    .. [1] S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
    .. [2] F. A. Gers, J. Schmidhuber and F. Cummins, "Learning to Forget: Continual Prediction with LSTM", Neural
       Computation 12(10), 2000.
    .. [3] K. Greff, R. K. Srivastava, J. Koutník, B. R. Steunebrink and J. Schmidhuber, "LSTM: A Search Space
       Odyssey", IEEE Transactions on Neural Networks and Learning Systems 28(10), 2017.
    .. [4] H. Sak, A. Senior and F. Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for Large
       Scale Acoustic Modeling", Interspeech 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import lstm_forward
    >>> h, cache = lstm_forward(np.ones((1, 2, 1)), [[0.0]], np.ones((1, 4)), np.ones((1, 4)), np.zeros(4))
    >>> h.round(4)
    array([[[0.3696],
            [0.6505]]])
    """
    of = family(projection, peepholes, coupled, cell_clip, clip)
    return _recurrent.forward(
        of,
        x,
        (h0, c0),
        Wx,
        Wh,
        _biases(of, b, projection, peepholes, cell_clip, Wh),
        keep_cache,
        num_threads,
        None,
        lengths,
        reverse,
        resets,
        outputs,
        checkpoint_every,
        memory_budget,
    )


def lstm_backward(
    dh: Any, cache: LSTMCache | None, *, dstate: Any = None, num_threads: int | None = None
) -> SequenceGradients:
    """Propagate gradients back through an LSTM over whole sequences.

    Parameters
    ----------
    dh : array_like of shape (N, T, H) or (N, H), or None
        Gradient of the loss with respect to the hidden states, or to the last one only; None is zero.
    cache : LSTMCache
        From `lstm_forward`. It is not changed and can be used again.
    dstate : LSTMState, optional
        Gradients of the loss with respect to h and c after the last step, other than through `dh`; each broadcasts to
        (N, H), and None is zero.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of shape (N, H)
    dWx : ndarray of shape (D, 4H)
    dWh : ndarray of shape (H, 4H)
    db : ndarray of shape (4H,)
        Gradients of the arguments of `lstm_forward`, in the wider of the dtypes of `dh` and `cache`.

    The result has `dc0`, the gradient of the first cell state, too, `dpeepholes` if the LSTM has peepholes, a clip or
    coupled gates, and `dprojection` if it has a projection, which makes `dh0` (N, P) and `dWh` (P, 4H).

    Raises
    ------
    TypeError
        If `dh` is not numeric as for `lstm_forward`, or `cache` is not a cache of it.
    ValueError
        If `dh` is not of the shape of the hidden states.

    See Also
    --------
    rnnkernels.reference.lstm_backward : The same in plain NumPy.

    Notes
    -----
    From the last step to the first, with dh[t] and dc[t] including what comes back from step t + 1::

        dc[t]   = dc[t] + dh[t] * o * (1 - tanh(c[t])**2)
        dz_i    = dc[t] * g * i * (1 - i)
        dz_f    = dc[t] * c[t-1] * f * (1 - f)
        dz_o    = dh[t] * tanh(c[t]) * o * (1 - o)
        dz_g    = dc[t] * i * (1 - g**2)
        dc[t-1] = dc[t] * f
        dh[t-1] = dh[t-1] + dz[t] @ Wh.T

        dx = dz @ Wx.T,   dWx = sum x[t].T @ dz[t],   dWh = sum h[t-1].T @ dz[t],   db = sum dz[t]

    With a projection, dh[t] @ projection.T takes the place of dh[t] but in the last line but one, and dprojection is
    the sum of (o * tanh(c[t])).T @ dh[t].

    References
    ----------
    .. [1] P. J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE
       78(10), 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import lstm_backward, lstm_forward
    >>> h, cache = lstm_forward(np.ones((1, 2, 1)), [[0.0]], np.ones((1, 4)), np.ones((1, 4)), np.zeros(4))
    >>> dx, dh0, dWx, dWh, db = lstm_backward(np.ones_like(h), cache)
    >>> db.round(4)
    array([0.1709, 0.024 , 0.2553, 0.3213])
    """
    return _recurrent.backward(_family_of(cache), dh, cache, dstate, num_threads)


@overload
def lstm_step_forward(
    x: Any,
    prev_h: Any,
    prev_c: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    keep_cache: Literal[True] = True,
    **options: Unpack[LSTMStepOptions],
) -> tuple[np.ndarray, np.ndarray, LSTMCache]: ...
@overload
def lstm_step_forward(
    x: Any,
    prev_h: Any,
    prev_c: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    keep_cache: Literal[False],
    **options: Unpack[LSTMStepOptions],
) -> tuple[np.ndarray, np.ndarray, None]: ...
@overload
def lstm_step_forward(
    x: Any,
    prev_h: Any,
    prev_c: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    keep_cache: bool,
    **options: Unpack[LSTMStepOptions],
) -> tuple[np.ndarray, np.ndarray, LSTMCache | None]: ...
def lstm_step_forward(
    x: Any,
    prev_h: Any,
    prev_c: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    projection: Any = None,
    peepholes: Any = None,
    coupled: bool = False,
    cell_clip: float | None = None,
    clip: float | None = None,
    keep_cache: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, LSTMCache | None]:
    """Advance an LSTM by one step.

    Parameters
    ----------
    x : array_like of shape (N, D)
        Input of the step, float32 or float64. Inputs and states broadcast over the batch, as in NumPy; vectors and
        numbers alone give vectors.
    prev_h : array_like of shape (N, H)
        Hidden state before the step.
    prev_c : array_like of shape (N, H)
        Cell state before the step.
    Wx : array_like of shape (D, 4H)
        Weights of the input, gate blocks in the order i, f, o, g.
    Wh : array_like of shape (H, 4H)
        Weights of the hidden state, same order.
    b : array_like of shape (4H,)
        Bias, same order.
    projection, peepholes, coupled, cell_clip, clip : optional
        As for `lstm_forward`.
    keep_cache : bool, default True
        Whether to keep what `lstm_step_backward` needs.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    next_h : ndarray of shape (N, H)
        Hidden state after the step, the same bits as those of `lstm_forward`.
    next_c : ndarray of shape (N, H)
        Cell state after the step.
    cache : LSTMCache or None
        For `lstm_step_backward`; None if `keep_cache` is false.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    lstm_forward : Many steps in one call, and much faster than as many calls; with the equations.

    References
    ----------
    .. [1] S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import lstm_step_forward
    >>> ones = np.ones((1, 4))
    >>> next_h, next_c, cache = lstm_step_forward([[1.0]], [[0.0]], [[0.0]], ones, ones, np.zeros(4))
    >>> next_h.round(4), next_c.round(4)
    (array([[0.3696]]), array([[0.5568]]))
    """
    of, states = family(projection, peepholes, coupled, cell_clip, clip), (prev_h, prev_c)
    biases = _biases(of, b, projection, peepholes, cell_clip, Wh)
    next_h, next_c, cache = _recurrent.step_forward(of, x, states, Wx, Wh, biases, keep_cache, num_threads)
    return next_h, next_c, cache


def lstm_step_backward(
    dnext_h: Any, dnext_c: Any, cache: LSTMCache | None, *, num_threads: int | None = None
) -> LSTMStepGradients:
    """Propagate gradients back through one step of an LSTM.

    Parameters
    ----------
    dnext_h : array_like of shape (N, H)
        Gradient of the loss with respect to the hidden state after the step.
    dnext_c : array_like of shape (N, H)
        Gradient with respect to the cell state after the step, other than through `next_h`.
    cache : LSTMCache
        From `lstm_step_forward`. It is not changed and can be used again.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    dx : ndarray of shape (N, D)
    dprev_h : ndarray of shape (N, H)
    dprev_c : ndarray of shape (N, H)
    dWx : ndarray of shape (D, 4H)
    dWh : ndarray of shape (H, 4H)
    db : ndarray of shape (4H,)
        Gradients of the arguments of `lstm_step_forward`.

    The result has `dpeepholes`, too, if the LSTM has peepholes, a clip or coupled gates, and `dprojection` if it has a
    projection.

    Raises
    ------
    TypeError
        If a gradient is not numeric as for `lstm_step_forward`, or `cache` is not a cache of it.
    ValueError
        If a gradient is not of the shape of the states, or `cache` is that of a sequence.

    See Also
    --------
    lstm_backward : The same for whole sequences, with the equations.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import lstm_step_backward, lstm_step_forward
    >>> ones = np.ones((1, 4))
    >>> next_h, next_c, cache = lstm_step_forward([[1.0]], [[0.0]], [[0.0]], ones, ones, np.zeros(4))
    >>> dx, dprev_h, dprev_c, dWx, dWh, db = lstm_step_backward([[1.0]], [[0.0]], cache)
    >>> dprev_c.round(4)
    array([[0.3978]])
    """
    of, names, gradients = _family_of(cache), ("dnext_h", "dnext_c"), (dnext_h, dnext_c)
    dx, dprev_h, dprev_c, dWx, dWh, dbs = _recurrent.step_backward(of, names, gradients, cache, num_threads)
    result = LSTMStepGradients((dx, dprev_h, dprev_c, dWx, dWh, dbs[0]))
    if of.cell.own:
        result.dpeepholes = _sequence.peepholes_of(of.cell, dbs[1])
    if of.cell.projected:
        result.dprojection = _recurrent.dprojection(of.cell, dbs, dWh)
    return result
