"""The masked softmax loss over sequences, of scores or of the affine layer that makes them."""

from typing import Any, Literal, overload

import numpy as np

from rnnkernels._checks.arrays import check_axes, check_given_float, for_kernels
from rnnkernels._checks.settings import check_choice
from rnnkernels._checks.words import check_affine, check_index_range, check_labels
from rnnkernels._memory import aligned_empty, aligned_zeros, empty, thread_scratch
from rnnkernels._packing import panel_columns, unit_columns
from rnnkernels._recorder import profiled
from rnnkernels._sequence import row_stride
from rnnkernels._threads import Team, is_for_one, segments, threads_for
from rnnkernels._tuning import (
    FAR_FUSED_BLOCK_ROWS,
    FAR_FUSED_PART_ROWS,
    FUSED_BLOCK_ROWS,
    FUSED_PART_ROWS,
    LOSS_BLOCK_ROWS,
    NEAR_BYTES,
)
from rnnkernels.affine import is_small
from rnnkernels.kernels import layout
from rnnkernels.kernels import loss as kernels
from rnnkernels.kernels.simd import lanes_of

Reduction = Literal["batchmean", "mean", "sum"]
"""What the sum over the steps is divided by: the sequences, the sum of the mask, or nothing."""

REDUCTIONS = "batchmean", "mean", "sum"

FLOPS_PER_SCORE = 40
"""Operations on one score, about; divides long calls and decides on threads."""


@profiled
def temporal_softmax_loss(
    x: Any,
    y: Any,
    mask: Any,
    verbose: bool = False,
    *,
    reduction: Reduction = "batchmean",
    num_threads: int | None = None,
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
    reduction : {"batchmean", "mean", "sum"}, default "batchmean"
        What the sum over all steps is divided by: "batchmean" by N, "mean" by the sum of `mask`, which is the number of
        steps that count if it is boolean, "sum" by 1. So is a sum by "mean" where that of `mask` is 0.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    loss : floating
        Sum of mask * -log(softmax(x)[y]), divided as `reduction` says, in the dtype of `x`.
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
        If a shape does not fit, or `reduction` is none of those above.

    See Also
    --------
    temporal_affine_softmax_loss : The same of scores from an affine layer, which are never there as a whole.

    Notes
    -----
    With p = softmax(x) along the last axis, and divisor = N by default::

        loss     = -sum over n, t of mask[n, t] * log(p[n, t, y[n, t]]) / divisor
        dx[n, t] = mask[n, t] * (p[n, t] - onehot(y[n, t])) / divisor

    The sum is divided by the number of sequences, not by that of the steps that count, unless `reduction` is "mean", as
    it is by default in PyTorch.

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
    y, mask = check_labels(y, mask, (N, T))
    divisor = _divisor(reduction, N, mask)
    dx = empty((N, T, V), x.dtype)
    flops = FLOPS_PER_SCORE * V
    rows, labels, weights = x.reshape(N * T, V), y.reshape(N * T), mask.reshape(N * T)
    gradient = dx.reshape(N * T, V)
    if is_for_one(N * T * flops, num_threads):
        total, outside = kernels.ALONE[x.dtype](rows, labels, weights, divisor, gradient, LOSS_BLOCK_ROWS)
        if outside >= 0:
            check_index_range("y", y, V, "V", mask != 0)
    else:
        check_index_range("y", y, V, "V", mask != 0)
        data = for_kernels(rows), for_kernels(labels), for_kernels(weights), divisor, gradient
        threads = threads_for(N * T * flops, -(-N * T // LOSS_BLOCK_ROWS), num_threads)
        total = 0.0
        with Team(threads, ("temporal_softmax_loss", N * T, V, x.dtype)) as team:
            for begin, end in segments(N * T, flops):
                sums = empty((-(-(end - begin) // LOSS_BLOCK_ROWS),), np.dtype(np.float64))
                team.run(kernels.softmax_loss, (*data, sums), (begin, end, LOSS_BLOCK_ROWS))
                total += float(np.add.accumulate(sums)[-1])  # in the order of parts, as a small call adds them up
    if verbose:
        print("dx_flat: ", (N * T, V))
    return x.dtype.type(total / divisor), dx


def _divisor(reduction: Reduction, N: int, mask: np.ndarray) -> float:
    if reduction == "batchmean":
        return float(max(N, 1))
    check_choice("reduction", reduction, REDUCTIONS)
    return (float(mask.sum()) or 1.0) if reduction == "mean" else 1.0


AffineGradients = tuple[np.floating, np.ndarray, np.ndarray, np.ndarray]
NoGradients = tuple[np.floating, None, None, None]


@overload
def temporal_affine_softmax_loss(
    x: Any,
    w: Any,
    b: Any,
    y: Any,
    mask: Any,
    *,
    reduction: Reduction = "batchmean",
    gradients: Literal[True] = True,
    num_threads: int | None = None,
) -> AffineGradients: ...
@overload
def temporal_affine_softmax_loss(
    x: Any,
    w: Any,
    b: Any,
    y: Any,
    mask: Any,
    *,
    reduction: Reduction = "batchmean",
    gradients: Literal[False],
    num_threads: int | None = None,
) -> NoGradients: ...
@overload
def temporal_affine_softmax_loss(
    x: Any,
    w: Any,
    b: Any,
    y: Any,
    mask: Any,
    *,
    reduction: Reduction = "batchmean",
    gradients: bool,
    num_threads: int | None = None,
) -> AffineGradients | NoGradients: ...
@profiled
def temporal_affine_softmax_loss(
    x: Any,
    w: Any,
    b: Any,
    y: Any,
    mask: Any,
    *,
    reduction: Reduction = "batchmean",
    gradients: bool = True,
    num_threads: int | None = None,
) -> AffineGradients | NoGradients:
    """Masked softmax loss of the scores of an affine layer, and its gradients, without an array of all scores.

    Elsewhere it is called linear cross-entropy. It computes what `temporal_affine_forward`, `temporal_softmax_loss` and
    `temporal_affine_backward` do, for the steps that count only.

    Parameters
    ----------
    x : array_like of shape (N, T, D)
        Inputs of the affine layer, such as hidden states, float32 or float64. Not read where the mask is 0.
    w : array_like of shape (D, V)
        Weights.
    b : array_like of shape (V,)
        Bias.
    y : array_like of integers of shape (N, T)
        Labels, 0 <= label < V. Where the mask is 0 they may be anything.
    mask : array_like of shape (N, T)
        Booleans, or weights of the steps. A step of weight 0 adds nothing to the loss, takes no time, and its gradient
        is 0.
    reduction : {"batchmean", "mean", "sum"}, default "batchmean"
        What the sum over all steps is divided by: "batchmean" by N, "mean" by the sum of `mask`, which is the number of
        steps that count if it is boolean, "sum" by 1. So is a sum by "mean" where that of `mask` is 0.
    gradients : bool, default True
        Whether to compute gradients; a call without them has a third of the operations.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    loss : floating
        Sum of mask * -log(softmax(x @ w + b)[y]), divided as `reduction` says, in the common dtype of `x`, `w`, `b`.
    dx : ndarray of shape (N, T, D)
    dw : ndarray of shape (D, V)
    db : ndarray of shape (V,)
        Gradients of the loss with respect to `x`, `w`, `b`; None each without `gradients`.

    Raises
    ------
    IndexError
        If a label is outside its range where the mask is not 0.
    TypeError
        If `x`, `w` or `b` is neither of float32 or float64 nor of integers, `y` not of integers, or `mask` not of
        booleans or real numbers.
    ValueError
        If a shape does not fit, or `reduction` is none of those above.

    Notes
    -----
    Scores are computed, used and overwritten by their gradient in blocks of some 256 steps. Besides its results a
    call holds one such block, and per thread some rows and columns of `w`.

    The loss and `dx` have the bits of those of the three functions, `dw` and `db` differ by rounding errors.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import temporal_affine_softmax_loss
    >>> h, w, b = np.ones((2, 3, 4)), np.zeros((4, 5)), np.zeros(5)
    >>> words, mask = [[0, 1, 2], [3, -1, -1]], [[True, True, True], [True, False, False]]
    >>> loss, dh, dw, db = temporal_affine_softmax_loss(h, w, b, words, mask, reduction="mean")
    >>> float(loss.round(4)), db
    (1.6094, array([-0.05, -0.05, -0.05, -0.05,  0.2 ]))
    """
    x, w, b = check_affine(x, w, b)
    gradients = bool(gradients)
    (N, T, D), V, dtype = x.shape, b.shape[0], x.dtype
    y, mask = check_labels(y, mask, (N, T))
    divisor = _divisor(reduction, N, mask)
    rows, labels, weights = x.reshape(N * T, D), y.reshape(N * T), mask.reshape(N * T)
    dx, dw, db = (
        empty((N * T if gradients else 0, D), dtype),
        empty((D if gradients else 0, V), dtype),
        empty((V,), dtype),
    )
    if is_small(N * T, 6 * D * V, num_threads):
        arguments = rows, w, b, labels, weights, divisor, gradients, dx, dw, db
        scratch = empty((N * T, D), dtype), empty((N * T, V), dtype), thread_scratch(dtype)
        total, outside = kernels.AFFINE_ALONE[dtype](*arguments, *scratch, LOSS_BLOCK_ROWS)
        if outside >= 0:
            check_index_range("y", y, V, "V", mask != 0)
    else:
        check_index_range("y", y, V, "V", mask != 0)
        losses = np.zeros(N * T)
        _run_blocks(rows, w, b, labels, weights, divisor, gradients, losses, dx, dw, db, num_threads)
        total = _in_parts(losses, V)
    loss = dtype.type(total / divisor)
    return (loss, dx.reshape(N, T, D), dw, db) if gradients else (loss, None, None, None)


def _run_blocks(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    divisor: float,
    wanted: bool,
    losses: np.ndarray,
    dx: np.ndarray,
    dw: np.ndarray,
    db: np.ndarray,
    num_threads: int | None,
) -> None:
    """Overwrite the losses of the rows of `x` that count, and the gradients if `wanted`, a block of rows at a time."""
    places = np.flatnonzero(weights)
    (D, V), K, dtype = w.shape, len(places), x.dtype
    if len(dx) > K:
        dx.fill(0)
    if K == 0:
        dw.fill(0)
        db.fill(0)
        return
    is_near, lanes = w.nbytes <= NEAR_BYTES, lanes_of(dtype)
    block = min(FUSED_BLOCK_ROWS if is_near else FAR_FUSED_BLOCK_ROWS, K)
    most = FUSED_PART_ROWS if is_near else FAR_FUSED_PART_ROWS
    width, columns = panel_columns(1, dtype), panel_columns(V, dtype)
    group = layout.PANELS_AT_ONCE * width
    groups = -(-columns // group)
    threads = threads_for((6 if wanted else 2) * K * D * V, max(groups, block // lanes), num_threads)
    turns = -(-block // (threads * most))
    size = unit_columns(-(-block // (threads * turns)), dtype)
    start, zeros = aligned_zeros((1, columns), dtype), aligned_zeros((1, max(group, size)), dtype)
    start[0, :V] = b
    scores = aligned_empty((block, columns), dtype)
    xT = aligned_empty((unit_columns(D, dtype), row_stride(block, dtype)), dtype)
    sums, edge = aligned_empty((1, columns), dtype), aligned_empty((D, width), dtype)
    scratch = aligned_empty((threads, kernels.member_scratch(block, size, D, lanes)), dtype)
    w, labels, weights = for_kernels(w), for_kernels(labels), for_kernels(weights)
    with Team(threads, ("temporal_affine_softmax_loss", K, D, V, dtype, wanted)) as team:
        for stop in range(K, 0, -block):
            here = places[max(stop - block, 0) : stop]
            rows, count = x[here], len(here)
            of_rows = rows, w, labels, weights, divisor, here, zeros, wanted, losses, scores, dx, xT, scratch
            by_columns = list(segments(groups, 2 * count * D * group))
            for begin, end in by_columns:
                team.run(kernels.affine_scores, (rows, w, start, scores, scratch), (begin, end))
            for begin, end in segments(-(-count // size), 2 * size * D * V):
                team.run(kernels.softmax_and_input_gradient, of_rows, (begin, end, size))
            for begin, end in by_columns if wanted else ():
                of_columns = xT, scores, zeros, dw, sums, edge, scratch
                team.run(kernels.accumulate_affine_gradients, of_columns, (count, stop == K, begin, end))
    if wanted:
        whole = V // width * width
        dw[:, whole:] = edge[:, : V - whole]
        db[...] = sums[0, :V]


def _in_parts(losses: np.ndarray, V: int) -> float:
    """Sum of the losses of rows, in the order in which `temporal_softmax_loss` adds them up."""
    total = 0.0
    for begin, end in segments(len(losses), FLOPS_PER_SCORE * V):
        parts = np.zeros((-(-(end - begin) // LOSS_BLOCK_ROWS), LOSS_BLOCK_ROWS))
        parts.reshape(-1)[: end - begin] = losses[begin:end]
        total += float(np.add.accumulate(np.add.accumulate(parts, axis=1)[:, -1])[-1])
    return total
