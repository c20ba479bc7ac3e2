"""The GRU: over whole sequences, and step by step."""

from typing import Any, Literal, Unpack, overload

import numpy as np

from rnnkernels import _recurrent
from rnnkernels._caches import RecurrentCache
from rnnkernels._results import ForwardResult, GRUState, SequenceGradients, SequenceOptions, StepGradients
from rnnkernels.kernels.gru import CELL, RESET_BEFORE


class _GatesByName(RecurrentCache):
    @property
    def r(self) -> np.ndarray:
        """Reset gate of shape (N, T, H), a copy."""
        return self._kept("r")

    @property
    def z(self) -> np.ndarray:
        """Update gate of shape (N, T, H), a copy."""
        return self._kept("z")

    @property
    def n(self) -> np.ndarray:
        """Candidate hidden state of shape (N, T, H), a copy."""
        return self._kept("n")

    @property
    def h(self) -> np.ndarray:
        """Hidden states of shape (N, T, H), a copy."""
        return self._tracked()


class GRUCache(_GatesByName):
    """What the backward pass of a GRU needs; see `RecurrentCache` for its fields."""

    cell = CELL


class GRUResetBeforeCache(_GatesByName):
    """The same for a GRU whose reset gate acts before the product."""

    cell = RESET_BEFORE


FAMILY = _recurrent.family(CELL, GRUCache, GRUState)
RESET_BEFORE_FAMILY = _recurrent.family(RESET_BEFORE, GRUResetBeforeCache, GRUState)


def family(reset_after: bool, clip: float | None = None) -> _recurrent.Family:
    """Where the reset gate acts, and which bound has what goes into activations."""
    found = FAMILY if reset_after else RESET_BEFORE_FAMILY
    return found if clip is None else _recurrent.clipped(found, clip)


def _family_of(cache: Any) -> _recurrent.Family:
    return family(not isinstance(cache, GRUResetBeforeCache))


@overload
def gru_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    keep_cache: Literal[True] = True,
    **options: Unpack[SequenceOptions],
) -> ForwardResult[GRUCache | GRUResetBeforeCache, GRUState]: ...
@overload
def gru_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    keep_cache: Literal[False],
    **options: Unpack[SequenceOptions],
) -> ForwardResult[None, GRUState]: ...
@overload
def gru_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    keep_cache: bool,
    **options: Unpack[SequenceOptions],
) -> ForwardResult[GRUCache | GRUResetBeforeCache | None, GRUState]: ...
def gru_forward(
    x: Any,
    h0: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    clip: float | None = None,
    lengths: Any = None,
    reverse: bool = False,
    resets: Any = None,
    outputs: Literal["all", "last"] = "all",
    checkpoint_every: int | None = None,
    memory_budget: int | None = None,
    keep_cache: bool = True,
    num_threads: int | None = None,
) -> ForwardResult[GRUCache | GRUResetBeforeCache | None, GRUState]:
    """Run a GRU over whole sequences.

    Parameters
    ----------
    x : array_like of shape (N, T, D)
        Input sequences, float32 or float64.
    h0 : array_like that broadcasts to (N, H), or None
        Hidden state before the first step; None is zero. It is converted to the dtype of the others.
    Wx : array_like of shape (D, 3H)
        Weights of the input, gate blocks in the order r, z, n.
    Wh : array_like of shape (H, 3H)
        Weights of the hidden state, same order.
    b : array_like of shape (3H,)
        Bias of the input, same order.
    bh : array_like of shape (3H,), optional
        Bias of the hidden state, same order; zero without it.
    reset_after : bool, default True
        Whether the reset gate acts after the product with Wh (PyTorch, cuDNN, Keras) or before it (the original paper,
        ONNX unless ``linear_before_reset=1``).
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
        Whether to keep what `gru_backward` needs. Without it, memory beyond `h` does not grow with T.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    h : ndarray of shape (N, T, H), or (N, H)
        Hidden states after each step, or after the last one, in the common dtype of `x` and the weights.
    cache : GRUCache or None
        For `gru_backward`; None if `keep_cache` is false.

    The result has `state`, the `GRUState` after the last step of each sequence, too.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    gru_backward : Gradients.
    rnnkernels.reference.gru_forward : The same in plain NumPy.

    Notes
    -----
    For each step t, with h[-1] = h0::

        r, z = sigmoid(b + x[t] @ Wx + bh + h[t-1] @ Wh), the blocks r and z
        n    = tanh(b_n + x[t] @ Wx_n + r * (bh_n + h[t-1] @ Wh_n))
        h[t] = (1 - z) * n + z * h[t-1]

    or, where r acts before the product::

        n    = tanh(b_n + x[t] @ Wx_n + bh_n + (r * h[t-1]) @ Wh_n)

    The bits of h depend neither on the other sequences nor on how the steps are divided among calls.

    References
    ----------
    .. [1] K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
       Translation", EMNLP 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import gru_forward
    >>> h, cache = gru_forward(np.ones((1, 2, 1)), None, np.ones((1, 3)), np.ones((1, 3)), np.zeros(3))
    >>> h.round(4)
    array([[[0.2048],
            [0.3468]]])
    """
    return _recurrent.forward(
        family(reset_after, clip),
        x,
        (h0,),
        Wx,
        Wh,
        (b, bh),
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


def gru_backward(
    dh: Any, cache: GRUCache | GRUResetBeforeCache | None, *, dstate: Any = None, num_threads: int | None = None
) -> SequenceGradients:
    """Propagate gradients back through a GRU over whole sequences.

    Parameters
    ----------
    dh : array_like of shape (N, T, H) or (N, H), or None
        Gradient of the loss with respect to the hidden states, or to the last one only; None is zero.
    cache : GRUCache
        From `gru_forward`. It is not changed and can be used again.
    dstate : GRUState or array_like that broadcasts to (N, H), optional
        Gradient of the loss with respect to the state after the last step, other than through `dh`.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dh0 : ndarray of shape (N, H)
    dWx : ndarray of shape (D, 3H)
    dWh : ndarray of shape (H, 3H)
    db : ndarray of shape (3H,)
        Gradients of the arguments of `gru_forward`, in the wider of the dtypes of `dh` and `cache`.

    The result has `dbh`, the gradient of `bh`, too; without one, that of a bias of zeros.

    Raises
    ------
    TypeError
        If `dh` is not numeric as for `gru_forward`, or `cache` is not a cache of it.
    ValueError
        If `dh` is not of the shape of the hidden states.

    See Also
    --------
    rnnkernels.reference.gru_backward : The same in plain NumPy.

    Notes
    -----
    From the last step to the first, with m_n = bh_n + h[t-1] @ Wh_n, and dz and dm the gradients of the products with x
    and with h::

        dz_n    = dh[t] * (1 - z) * (1 - n**2)
        dz_z    = dh[t] * (h[t-1] - n) * z * (1 - z)
        dz_r    = dz_n * m_n * r * (1 - r)
        dm      = dz_r, dz_z, dz_n * r
        dh[t-1] = dh[t-1] + dh[t] * z + dm @ Wh.T

    or, where r acts before the product, with q = r * h[t-1]::

        dq      = dz_n @ Wh_n.T
        dz_r    = dq * h[t-1] * r * (1 - r)
        dm      = dz_r, dz_z, dz_n
        dh[t-1] = dh[t-1] + dh[t] * z + dq * r + dm_rz @ Wh_rz.T,   dWh_n = sum q.T @ dm_n[t]

    and in both cases, but for that dWh_n::

        dx = dz @ Wx.T,   dWx = sum x[t].T @ dz[t],   dWh = sum h[t-1].T @ dm[t],   db = sum dz[t],   dbh = sum dm[t]

    References
    ----------
    .. [1] P. J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE
       78(10), 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import gru_backward, gru_forward
    >>> h, cache = gru_forward(np.ones((1, 2, 1)), None, np.ones((1, 3)), np.ones((1, 3)), np.zeros(3))
    >>> gradients = gru_backward(np.ones_like(h), cache)
    >>> gradients.db.round(4), gradients.dbh.round(4)
    (array([ 0.0027, -0.3669,  0.2698]), array([ 0.0027, -0.3669,  0.2002]))
    """
    return _recurrent.backward(_family_of(cache), dh, cache, dstate, num_threads)


@overload
def gru_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    clip: float | None = None,
    keep_cache: Literal[True] = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, GRUCache | GRUResetBeforeCache]: ...
@overload
def gru_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    clip: float | None = None,
    keep_cache: Literal[False],
    num_threads: int | None = None,
) -> tuple[np.ndarray, None]: ...
@overload
def gru_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    clip: float | None = None,
    keep_cache: bool,
    num_threads: int | None = None,
) -> tuple[np.ndarray, GRUCache | GRUResetBeforeCache | None]: ...
def gru_step_forward(
    x: Any,
    prev_h: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    *,
    bh: Any = None,
    reset_after: bool = True,
    clip: float | None = None,
    keep_cache: bool = True,
    num_threads: int | None = None,
) -> tuple[np.ndarray, GRUCache | GRUResetBeforeCache | None]:
    """Advance a GRU by one step.

    Parameters
    ----------
    x : array_like of shape (N, D)
        Input of the step, float32 or float64. Inputs and states broadcast over the batch, as in NumPy; vectors and
        numbers alone give vectors.
    prev_h : array_like of shape (N, H)
        Hidden state before the step.
    Wx : array_like of shape (D, 3H)
        Weights of the input, gate blocks in the order r, z, n.
    Wh : array_like of shape (H, 3H)
        Weights of the hidden state, same order.
    b : array_like of shape (3H,)
        Bias of the input, same order.
    bh : array_like of shape (3H,), optional
        Bias of the hidden state, same order; zero without it.
    reset_after, clip : optional
        As for `gru_forward`.
    keep_cache : bool, default True
        Whether to keep what `gru_step_backward` needs.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    next_h : ndarray of shape (N, H)
        Hidden state after the step, the same bits as those of `gru_forward`.
    cache : GRUCache or None
        For `gru_step_backward`; None if `keep_cache` is false.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    See Also
    --------
    gru_forward : Many steps in one call, and much faster than as many calls.

    References
    ----------
    .. [1] K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
       Translation", EMNLP 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import gru_step_forward
    >>> next_h, cache = gru_step_forward([[1.0]], [[0.0]], np.ones((1, 3)), np.ones((1, 3)), np.zeros(3))
    >>> next_h.round(4)
    array([[0.2048]])
    """
    biases = (b, bh)
    of = family(reset_after, clip)
    next_h, cache = _recurrent.step_forward(of, x, (prev_h,), Wx, Wh, biases, keep_cache, num_threads)
    return next_h, cache


def gru_step_backward(
    dnext_h: Any, cache: GRUCache | GRUResetBeforeCache | None, *, num_threads: int | None = None
) -> StepGradients:
    """Propagate a gradient back through one step of a GRU.

    Parameters
    ----------
    dnext_h : array_like of shape (N, H)
        Gradient of the loss with respect to the hidden state after the step.
    cache : GRUCache
        From `gru_step_forward`. It is not changed and can be used again.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    dx : ndarray of shape (N, D)
    dprev_h : ndarray of shape (N, H)
    dWx : ndarray of shape (D, 3H)
    dWh : ndarray of shape (H, 3H)
    db : ndarray of shape (3H,)
        Gradients of the arguments of `gru_step_forward`.

    The result has `dbh`, the gradient of `bh`, too; without one, that of a bias of zeros.

    Raises
    ------
    TypeError
        If `dnext_h` is not numeric as for `gru_step_forward`, or `cache` is not a cache of it.
    ValueError
        If `dnext_h` is not of the shape of the hidden state, or `cache` is that of a sequence.

    See Also
    --------
    gru_backward : The same for whole sequences, with the equations.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import gru_step_backward, gru_step_forward
    >>> next_h, cache = gru_step_forward([[1.0]], [[0.0]], np.ones((1, 3)), np.ones((1, 3)), np.zeros(3))
    >>> gradients = gru_step_backward([[1.0]], cache)
    >>> gradients.dprev_h.round(4)
    array([[0.6639]])
    """
    gradients = _recurrent.step_backward(_family_of(cache), ("dnext_h",), (dnext_h,), cache, num_threads)
    return _recurrent.step_gradients(*gradients)
