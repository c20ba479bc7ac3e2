"""The vanilla RNN: over whole sequences, and step by step."""

from typing import Any, Literal, Unpack, overload

import numpy as np

from rnnkernels import _recurrent
from rnnkernels._caches import RecurrentCache
from rnnkernels._checks.settings import check_choice
from rnnkernels._results import ForwardResult, RNNState, SequenceGradients, SequenceOptions
from rnnkernels.kernels.rnn import CELL, RELU


class _States(RecurrentCache):
    """What the caches of both have."""

    @property
    def h(self) -> np.ndarray:
        """Hidden states of shape (N, T, H), a copy."""
        return self._tracked()


class RNNCache(_States):
    """What the backward pass of a vanilla RNN needs; see `RecurrentCache` for its fields."""

    cell = CELL


class RNNReluCache(_States):
    """The same for a vanilla RNN with relu."""

    cell = RELU


FAMILY = _recurrent.family(CELL, RNNCache, RNNState)
RELU_FAMILY = _recurrent.family(RELU, RNNReluCache, RNNState)


def family(activation: str, clip: float | None = None) -> _recurrent.Family:
    """With which activation, "tanh" or "relu", and which bound of what goes into it."""
    found = FAMILY
    if activation != "tanh":
        check_choice("activation", activation, ("tanh", "relu"))
        found = RELU_FAMILY
    return found if clip is None else _recurrent.clipped(found, clip)


def _family_of(cache: Any) -> _recurrent.Family:
    return RELU_FAMILY if isinstance(cache, RNNReluCache) else FAMILY


@overload
def rnn_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    keep_cache: Literal[True] = True,
    **options: Unpack[SequenceOptions],
) -> ForwardResult[RNNCache | RNNReluCache, RNNState]: ...
@overload
def rnn_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    keep_cache: Literal[False],
    **options: Unpack[SequenceOptions],
) -> ForwardResult[None, RNNState]: ...
@overload
def rnn_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    keep_cache: bool,
    **options: Unpack[SequenceOptions],
) -> ForwardResult[RNNCache | RNNReluCache | None, RNNState]: ...
def rnn_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    clip: float | None = None,
    lengths: Any = None,
    reverse: bool = False,
    resets: Any = None,
    outputs: Literal["all", "last"] = "all",
    checkpoint_every: int | None = None,
    memory_budget: int | None = None,
    keep_cache: bool = True,
    num_threads: int | None = None,
) -> ForwardResult[RNNCache | RNNReluCache | None, RNNState]:
    """Run a vanilla RNN over whole sequences.

    Parameters
    ----------
    x : array_like of shape (N, T, D)
        Input sequences, float32 or float64.
    h0 : array_like that broadcasts to (N, H), or None
        Hidden state before the first step; None is zero. It is converted to the dtype of the others.
    Wx : array_like of shape (D, H)
        Weights of the input.
    Wh : array_like of shape (H, H)
        Weights of the hidden state.
    b : array_like of shape (H,)
        Bias.
    activation : {"tanh", "relu"}, default "tanh"
        What makes the hidden state.
    clip : float, optional
        Largest magnitude of what goes into the activation, as that of ONNX nodes; what exceeds it is cut off, and has
        no gradient.
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
        Whether to keep what `rnn_backward` needs. Without it, memory beyond `h` does not grow with T.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    h : ndarray of shape (N, T, H), or (N, H)
        Hidden states after each step, or after the last one, in the common dtype of `x` and the weights.
    cache : RNNCache or None
        For `rnn_backward`; None if `keep_cache` is false.

    The result has `state`, the `RNNState` after the last step of each sequence, too.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    rnn_backward : Gradients.
    rnnkernels.reference.rnn_forward : The same in plain NumPy.

    Notes
    -----
    For each step t, with h[-1] = h0::

        h[t] = tanh(b + x[t] @ Wx + h[t-1] @ Wh)

    or the larger of that argument and 0, with relu.

    Each element sums the bias, the products with x[t] and those with h[t-1], in this order, in fixed parts and by fused
    multiply-add: its bits depend neither on the other sequences nor on how the steps are divided among calls.

    References
    ----------
    .. [1] J. L. Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import rnn_forward
    >>> h, cache = rnn_forward(np.ones((1, 2, 1)), [[0.0]], [[0.5]], [[1.0]], [0.0])
    >>> h.round(4)
    array([[[0.4621],
            [0.7452]]])
    """
    return _recurrent.forward(
        family(activation, clip),
        x,
        (h0,),
        Wx,
        Wh,
        (b,),
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


def rnn_backward(
    dh: Any, cache: RNNCache | RNNReluCache | None, *, dstate: Any = None, num_threads: int | None = None
) -> SequenceGradients:
    """Propagate gradients back through a vanilla RNN over whole sequences.

    Parameters
    ----------
    dh : array_like of shape (N, T, H) or (N, H), or None
        Gradient of the loss with respect to the hidden states, or to the last one only; None is zero.
    cache : RNNCache
        From `rnn_forward`. It is not changed and can be used again.
    dstate : RNNState or array_like that broadcasts to (N, H), optional
        Gradient of the loss with respect to the state after the last step, other than through `dh`.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of shape (N, H)
    dWx : ndarray of shape (D, H)
    dWh : ndarray of shape (H, H)
    db : ndarray of shape (H,)
        Gradients of the arguments of `rnn_forward`, in the wider of the dtypes of `dh` and `cache`.

    Raises
    ------
    TypeError
        If `dh` is not numeric as for `rnn_forward`, or `cache` is not a cache of it.
    ValueError
        If `dh` is not of the shape of the hidden states.

    See Also
    --------
    rnnkernels.reference.rnn_backward : The same in plain NumPy.

    Notes
    -----
    From the last step to the first, with dh[t] including what comes back from step t + 1::

        dz[t]   = dh[t] * (1 - h[t]**2)
        dh[t-1] = dh[t-1] + dz[t] @ Wh.T

        dx = dz @ Wx.T,   dWx = sum x[t].T @ dz[t],   dWh = sum h[t-1].T @ dz[t],   db = sum dz[t]

    References
    ----------
    .. [1] P. J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE
       78(10), 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import rnn_backward, rnn_forward
    >>> h, cache = rnn_forward(np.ones((1, 2, 1)), [[0.0]], [[0.5]], [[1.0]], [0.0])
    >>> dx, dh0, dWx, dWh, db = rnn_backward(np.ones_like(h), cache)
    >>> dWx.round(4)
    array([[1.5808]])
    """
    return _recurrent.backward(_family_of(cache), dh, cache, dstate, num_threads)


@overload
def rnn_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    clip: float | None = None,
    keep_cache: Literal[True] = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, RNNCache | RNNReluCache]: ...
@overload
def rnn_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    clip: float | None = None,
    keep_cache: Literal[False],
    num_threads: int | None = None,
) -> tuple[np.ndarray, None]: ...
@overload
def rnn_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    clip: float | None = None,
    keep_cache: bool,
    num_threads: int | None = None,
) -> tuple[np.ndarray, RNNCache | RNNReluCache | None]: ...
def rnn_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    activation: Literal["tanh", "relu"] = "tanh",
    clip: float | None = None,
    keep_cache: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, RNNCache | RNNReluCache | None]:
    """Advance a vanilla RNN by one step.

    Parameters
    ----------
    x : array_like of shape (N, D)
        Input of the step, float32 or float64. Inputs and states broadcast over the batch, as in NumPy; vectors and
        numbers alone give vectors.
    prev_h : array_like of shape (N, H)
        Hidden state before the step.
    Wx : array_like of shape (D, H)
        Weights of the input.
    Wh : array_like of shape (H, H)
        Weights of the hidden state.
    b : array_like of shape (H,)
        Bias.
    activation, clip : optional
        As for `rnn_forward`.
    keep_cache : bool, default True
        Whether to keep what `rnn_step_backward` needs.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    next_h : ndarray of shape (N, H)
        Hidden state after the step, the same bits as those of `rnn_forward`.
    cache : RNNCache or None
        For `rnn_step_backward`; None if `keep_cache` is false.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    rnn_forward : Many steps in one call, and much faster than as many calls.

    References
    ----------
    .. [1] J. L. Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990.

    Examples
    --------
    >>> from rnnkernels import rnn_step_forward
    >>> next_h, cache = rnn_step_forward([[1.0]], [[0.0]], [[0.5]], [[1.0]], [0.0])
    >>> next_h.round(4)
    array([[0.4621]])
    """
    of = family(activation, clip)
    next_h, cache = _recurrent.step_forward(of, x, (prev_h,), Wx, Wh, (b,), keep_cache, num_threads)
    return next_h, cache


def rnn_step_backward(
    dnext_h: Any, cache: RNNCache | RNNReluCache | None, *, num_threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Propagate a gradient back through one step of a vanilla RNN.

    Parameters
    ----------
    dnext_h : array_like of shape (N, H)
        Gradient of the loss with respect to the hidden state after the step.
    cache : RNNCache
        From `rnn_step_forward`. It is not changed and can be used again.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    dx : ndarray of shape (N, D)
    dprev_h : ndarray of shape (N, H)
    dWx : ndarray of shape (D, H)
    dWh : ndarray of shape (H, H)
    db : ndarray of shape (H,)
        Gradients of the arguments of `rnn_step_forward`.

    Raises
    ------
    TypeError
        If `dnext_h` is not numeric as for `rnn_step_forward`, or `cache` is not a cache of it.
    ValueError
        If `dnext_h` is not of the shape of the hidden state, or `cache` is that of a sequence.

    See Also
    --------
    rnn_backward : The same for whole sequences, with the equations.

    Examples
    --------
    >>> from rnnkernels import rnn_step_backward, rnn_step_forward
    >>> next_h, cache = rnn_step_forward([[1.0]], [[0.0]], [[0.5]], [[1.0]], [0.0])
    >>> dx, dprev_h, dWx, dWh, db = rnn_step_backward([[1.0]], cache)
    >>> dx.round(4)
    array([[0.3932]])
    """
    dx, dprev_h, dWx, dWh, (db,) = _recurrent.step_backward(
        _family_of(cache), ("dnext_h",), (dnext_h,), cache, num_threads
    )
    return dx, dprev_h, dWx, dWh, db
