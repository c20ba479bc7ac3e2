"""The LSTM: over whole sequences, and step by step."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnkernels import _sequence
from rnnkernels._checks import Sizes, check_cache, check_gradient, check_sequence, check_single_step, check_step
from rnnkernels._memory import aligned_empty, aligned_zeros, empty
from rnnkernels._recorder import profiled
from rnnkernels.kernels import lstm as kernels

GATES = kernels.GATES


@dataclass(frozen=True, eq=False, slots=True)
class LSTMCache:
    """What the backward pass of an LSTM needs; treat it as read-only.

    Attributes
    ----------
    x : ndarray of shape (N, T, D)
        Inputs: the caller's array, not a copy, unless its dtype or layout had to change.
    h0 : ndarray of shape (N, H)
        Hidden state before the first step, likewise.
    Wx, Wh : ndarray of shape (D, 4H) and (H, 4H)
        Weights, likewise.
    gates : ndarray of shape (T, N, 4U)
        Activated gates, time-major, in the order of columns of the kernels; `i`, `f`, `o` and `g` give them in the
        natural one. U is H rounded up to whole vectors.
    cells : ndarray of shape (T + 1, N, U)
        Cell states before the first step and after each.
    """

    x: np.ndarray
    h0: np.ndarray
    Wx: np.ndarray
    Wh: np.ndarray
    gates: np.ndarray
    cells: np.ndarray

    def _gate(self, position: int) -> np.ndarray:
        gates = _sequence.natural(self.gates, self.h0.shape[1], GATES)
        return np.moveaxis(gates[:, :, position], 0, 1).copy()

    @property
    def i(self) -> np.ndarray:
        """Input gate of shape (N, T, H), a copy."""
        return self._gate(0)

    @property
    def f(self) -> np.ndarray:
        """Forget gate of shape (N, T, H), a copy."""
        return self._gate(1)

    @property
    def o(self) -> np.ndarray:
        """Output gate of shape (N, T, H), a copy."""
        return self._gate(2)

    @property
    def g(self) -> np.ndarray:
        """Candidate cell state of shape (N, T, H), a copy."""
        return self._gate(3)

    @property
    def c(self) -> np.ndarray:
        """Cell states after each step, of shape (N, T, H), a copy."""
        return np.moveaxis(self.cells[1:, :, : self.h0.shape[1]], 0, 1).copy()

    def _in_dtype(self, dtype: np.dtype) -> "LSTMCache":
        if self.x.dtype == dtype:
            return self
        hidden = self.h0.shape[1]
        gates = _sequence.interleaved(_sequence.natural(self.gates, hidden, GATES), dtype)
        cells = _sequence.interleaved(_sequence.natural(self.cells, hidden, 1), dtype)
        x, h0, Wx, Wh = (a.astype(dtype) for a in (self.x, self.h0, self.Wx, self.Wh))
        return LSTMCache(x, h0, Wx, Wh, gates, cells)


@profiled
def lstm_forward(
    x: Any, h0: Any, Wx: Any, Wh: Any, b: Any, *, keep_cache: bool = True, num_threads: int | None = None
) -> tuple[np.ndarray, LSTMCache | None]:
    """Run an LSTM over whole sequences, from a cell state of zero.

    Parameters
    ----------
    x : array_like of shape (N, T, D)
        Input sequences, float32 or float64.
    h0 : array_like of shape (N, H)
        Hidden state before the first step.
    Wx : array_like of shape (D, 4H)
        Weights of the input, gate blocks in the order i, f, o, g.
    Wh : array_like of shape (H, 4H)
        Weights of the hidden state, same order.
    b : array_like of shape (4H,)
        Bias, same order.
    keep_cache : bool, default True
        Whether to keep what `lstm_backward` needs. Without it, memory beyond `h` does not grow with T.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    h : ndarray of shape (N, T, H)
        Hidden states after each step, in the common dtype of the arguments.
    cache : LSTMCache or None
        For `lstm_backward`; None if `keep_cache` is false.

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
    For each step t, with h[-1] = h0 and c[-1] = 0::

        z[t]    = b + x[t] @ Wx + h[t-1] @ Wh
        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)
        g       = tanh(z_g)
        c[t]    = f * c[t-1] + i * g
        h[t]    = o * tanh(c[t])

    Each element of z sums the bias, the products with x[t] and those with h[t-1], in this order, in fixed parts and by
    fused multiply-add: the bits of h depend neither on the other sequences nor on how steps are divided among calls.

    References
    ----------
    .. [1] S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
    .. [2] F. A. Gers, J. Schmidhuber and F. Cummins, "Learning to Forget: Continual Prediction with LSTM", Neural
       Computation 12(10), 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import lstm_forward
    >>> h, cache = lstm_forward(np.ones((1, 2, 1)), [[0.0]], np.ones((1, 4)), np.ones((1, 4)), np.zeros(4))
    >>> h.round(4)
    array([[[0.3696],
            [0.6505]]])
    """
    x, h0, Wx, Wh, b, sizes = check_sequence(x, h0, Wx, Wh, b, GATES)
    h, _, cache = _forward(x, h0, None, Wx, Wh, b, sizes, keep_cache, num_threads)
    return h, cache


def _forward(
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray | None,
    Wx: np.ndarray,
    Wh: np.ndarray,
    b: np.ndarray,
    sizes: Sizes,
    keep_cache: bool,
    num_threads: int | None,
) -> tuple[np.ndarray, np.ndarray, LSTMCache | None]:
    N, T, _, H = sizes
    h = empty((N, T, H), x.dtype)
    columns = _sequence.unit_columns(H, x.dtype)
    gates = aligned_empty((T if keep_cache else 1, N, GATES * columns), x.dtype)
    cells = aligned_empty((T + 1 if keep_cache else 1, N, columns), x.dtype)
    cells[0] = 0
    if c0 is not None:
        cells[0, :, :H] = c0
    weights = Wx, Wh, b
    _sequence.run_forward(kernels.lstm_sequence_forward, x, h0, weights, h, (gates, cells), sizes, GATES, num_threads)
    cache = LSTMCache(x, h0, Wx, Wh, gates, cells) if keep_cache else None
    return h, cells[-1, :, :H], cache


@profiled
def lstm_backward(
    dh: Any, cache: LSTMCache | None, *, num_threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Propagate gradients back through an LSTM over whole sequences.

    Parameters
    ----------
    dh : array_like of shape (N, T, H)
        Gradient of the loss with respect to the hidden states.
    cache : LSTMCache
        From `lstm_forward`. It is not changed and can be used again.
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
    cache = check_cache(cache, LSTMCache, "lstm_forward")
    (T, N), H = cache.gates.shape[:2], cache.h0.shape[1]
    dh = check_gradient("dh", dh, "(N, T, H)", (N, T, H), cache.x.dtype)
    dx, dh0, _, dWx, dWh, db = _backward(dh, None, cache._in_dtype(dh.dtype), num_threads)
    return dx, dh0, dWx, dWh, db


def _backward(
    dh: np.ndarray, dc: np.ndarray | None, cache: LSTMCache, num_threads: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    N, T, D = cache.x.shape
    sizes = Sizes(N, T, D, cache.h0.shape[1])
    carried = aligned_zeros((sizes.N, cache.cells.shape[2]), dh.dtype)
    if dc is not None:
        carried[:, : sizes.H] = dc
    weights = cache.Wx, cache.Wh
    kept = (cache.gates, cache.cells)
    dx, dh0, dWx, dWh, db = _sequence.run_backward(
        kernels.lstm_sequence_backward, cache.x, cache.h0, weights, kept, dh, (carried,), sizes, GATES, num_threads
    )
    return dx, dh0, carried[:, : sizes.H], dWx, dWh, db


@profiled
def lstm_step_forward(
    x: Any,
    prev_h: Any,
    prev_c: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    keep_cache: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, LSTMCache | None]:
    """Advance an LSTM by one step.

    Parameters
    ----------
    x : array_like of shape (N, D)
        Input of the step, float32 or float64.
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
    x, (prev_h, prev_c), Wx, Wh, b, sizes = check_step(x, (prev_h, prev_c), "prev_h prev_c", Wx, Wh, b, GATES)
    h, next_c, cache = _forward(x, prev_h, prev_c, Wx, Wh, b, sizes, keep_cache, num_threads)
    return h[:, 0], next_c.copy(), cache


@profiled
def lstm_step_backward(
    dnext_h: Any, dnext_c: Any, cache: LSTMCache | None, *, num_threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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
    cache = check_cache(cache, LSTMCache, "lstm_step_forward")
    check_single_step(cache.x, "lstm_step_forward")
    shape = cache.h0.shape
    dnext_h = check_gradient("dnext_h", dnext_h, "(N, H)", shape, cache.x.dtype)
    dnext_c = check_gradient("dnext_c", dnext_c, "(N, H)", shape, dnext_h.dtype)
    dh = dnext_h.astype(dnext_c.dtype, copy=False)[:, np.newaxis]
    dx, dprev_h, dprev_c, dWx, dWh, db = _backward(dh, dnext_c, cache._in_dtype(dnext_c.dtype), num_threads)
    return dx[:, 0], dprev_h, dprev_c.copy(), dWx, dWh, db
