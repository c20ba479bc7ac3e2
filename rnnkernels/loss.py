"""The masked softmax loss over sequences."""

from typing import Any

import numpy as np

from rnnkernels._checks import (
    check_axes,
    check_given_float,
    check_index_range,
    check_indices,
    check_mask,
    check_shape,
    for_kernels,
)
from rnnkernels._memory import empty
from rnnkernels._recorder import profiled
from rnnkernels._threads import Team, is_for_one, segments, threads_for
from rnnkernels._tuning import LOSS_BLOCK_ROWS
from rnnkernels.kernels import loss as kernels

FLOPS_PER_SCORE = 40
"""Operations on one score, about; divides long calls and decides on threads."""


@profiled
def temporal_softmax_loss(
    x: Any, y: Any, mask: Any, verbose: bool = False, *, num_threads: int | None = None
) -> tuple[np.floating, np.ndarray]:
    """Cross-entropy of softmax scores against labels, summed over the steps and averaged over the sequences.

    Parameters
    ----------
    x : array_like of shape (N, T, V)
        Scores, float32 or float64.
    y : array_like of integers of shape (N, T)
        Labels, 0 <= label < V. Where the mask is 0 they are not read and may be anything.
    mask : array_like of shape (N, T)
        Booleans, or weights of the steps. A step of weight 0 adds nothing to the loss, and its gradient is 0.
    verbose : bool, default False
        Whether to print the shape of the gradient as a table of N * T rows.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    loss : floating
        Sum of mask * -log(softmax(x)[y]), divided by N, in the dtype of `x`.
    dx : ndarray of shape (N, T, V)
        Gradient of the loss with respect to `x`.

    Raises
    ------
    IndexError
        If a label is outside its range where the mask is not 0.
    TypeError
        If `x` is neither of float32 or float64 nor of integers, `y` not of integers, or `mask` not of booleans or
        real numbers.
    ValueError
        If a shape does not fit.

    Notes
    -----
    With p = softmax(x) along the last axis::

        loss     = -sum over n, t of mask[n, t] * log(p[n, t, y[n, t]]) / N
        dx[n, t] = mask[n, t] * (p[n, t] - onehot(y[n, t])) / N

    The sum is divided by the number of sequences, not by that of the steps that count.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import temporal_softmax_loss
    >>> loss, dx = temporal_softmax_loss([[[0.0, 0.0], [3.0, 1.0]]], [[0, -1]], [[True, False]])
    >>> float(loss.round(4))
    0.6931
    >>> dx
    array([[[-0.5,  0.5],
            [ 0. ,  0. ]]])
    """
    x = check_given_float("x", x)
    if x.ndim != 3:
        check_axes("x", x, "(N, T, V)")
    N, T, V = x.shape
    mask = check_mask("mask", mask)
    y = check_indices("y", y, mask)
    if y.shape != (N, T) or mask.shape != (N, T):
        check_shape("y", y, "(N, T)", (N, T), "`x`")
        check_shape("mask", mask, "(N, T)", (N, T), "`x`")
    dx = empty((N, T, V), x.dtype)
    flops = FLOPS_PER_SCORE * V
    rows, labels, weights = x.reshape(N * T, V), y.reshape(N * T), mask.reshape(N * T)
    gradient = dx.reshape(N * T, V)
    if is_for_one(N * T * flops, num_threads):
        total, outside = kernels.ALONE[x.dtype](rows, labels, weights, max(N, 1), gradient, LOSS_BLOCK_ROWS)
        if outside >= 0:
            check_index_range("y", y, V, "V", mask != 0)
    else:
        check_index_range("y", y, V, "V", mask != 0)
        data = for_kernels(rows), for_kernels(labels), for_kernels(weights), max(N, 1), gradient
        threads = threads_for(N * T * flops, -(-N * T // LOSS_BLOCK_ROWS), num_threads)
        total = 0.0
        with Team(threads, ("temporal_softmax_loss", N * T, V, x.dtype)) as team:
            for begin, end in segments(N * T, flops):
                sums = empty((-(-(end - begin) // LOSS_BLOCK_ROWS),), np.dtype(np.float64))
                team.run(kernels.softmax_loss, (*data, sums), (begin, end, LOSS_BLOCK_ROWS))
                total += float(np.add.accumulate(sums)[-1])  # in the order of parts, as a small call adds them up
    if verbose:
        print("dx_flat: ", (N * T, V))
    return x.dtype.type(total / max(N, 1)), dx
