"""The affine layer over sequences."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnkernels._checks import check_axes, check_cache, check_floats, check_gradient, check_shape
from rnnkernels._memory import aligned_empty, aligned_zeros, empty
from rnnkernels._sequence import empty_panels, panel_columns
from rnnkernels._threads import segments
from rnnkernels._tuning import BACKWARD_CHUNK_ROWS
from rnnkernels.kernels import affine as kernels
from rnnkernels.kernels import layout


@dataclass(frozen=True, eq=False, slots=True)
class TemporalAffineCache:
    """What the backward pass of an affine layer needs; treat it as read-only.

    Attributes
    ----------
    x : ndarray of shape (N, T, D)
        Inputs: the caller's array, not a copy, unless its dtype or layout had to change.
    w : ndarray of shape (D, M)
        Weights, likewise.
    """

    x: np.ndarray
    w: np.ndarray


def temporal_affine_forward(
    x: Any, w: Any, b: Any, *, keep_cache: bool = True
) -> tuple[np.ndarray, TemporalAffineCache | None]:
    """Apply an affine function at each step of each sequence.

    Parameters
    ----------
    x : array_like of shape (N, T, D)
        Inputs, float32 or float64.
    w : array_like of shape (D, M)
        Weights.
    b : array_like of shape (M,)
        Bias.
    keep_cache : bool, default True
        Whether to keep what `temporal_affine_backward` needs.

    Returns
    -------
    out : ndarray of shape (N, T, M)
        `x @ w + b`, in the common dtype of the arguments.
    cache : TemporalAffineCache or None
        For `temporal_affine_backward`; None if `keep_cache` is false.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit; the message names the argument.

    Examples
    --------
    >>> from rnnkernels import temporal_affine_forward
    >>> out, cache = temporal_affine_forward([[[1.0, 2.0]]], [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [0.5, 0.5, 0.5])
    >>> out
    array([[[1.5, 2.5, 3.5]]])
    """
    x, w, b = check_floats("x w b", x, w, b)
    check_axes("x", x, "(N, T, D)")
    check_axes("b", b, "(M,)")
    N, T, D = x.shape
    M = b.shape[0]
    check_shape("w", w, "(D, M)", (D, M), "`x` and `b`")
    out = empty((N, T, M), x.dtype)
    panels = empty_panels(D, M, x.dtype)
    layout.pack_columns(w, 1, panels)
    start = aligned_empty((1, panel_columns(M, x.dtype)), x.dtype)
    layout.interleave_row(b, 1, start)
    _multiply_rows(x.reshape(N * T, D), panels, start, out.reshape(N * T, M))
    return out, TemporalAffineCache(x, w) if keep_cache else None


def _multiply_rows(x: np.ndarray, panels: np.ndarray, start: np.ndarray, out: np.ndarray) -> None:
    rows, depth = x.shape
    edge = aligned_empty((BACKWARD_CHUNK_ROWS, panel_columns(1, x.dtype)), x.dtype)
    for begin, end in segments(rows, 2 * depth * out.shape[1]):
        kernels.affine_forward(x, panels, start, out, edge, begin, end, BACKWARD_CHUNK_ROWS)


def temporal_affine_backward(dout: Any, cache: TemporalAffineCache | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Propagate gradients back through an affine layer.

    Parameters
    ----------
    dout : array_like of shape (N, T, M)
        Gradient of the loss with respect to the outputs.
    cache : TemporalAffineCache
        From `temporal_affine_forward`. It is not changed and can be used again.

    Returns
    -------
    dx : ndarray of shape (N, T, D)
    dw : ndarray of shape (D, M)
    db : ndarray of shape (M,)
        Gradients of the arguments of `temporal_affine_forward`, in the wider of the dtypes of `dout` and `cache`.

    Raises
    ------
    TypeError
        If `dout` is not numeric as for `temporal_affine_forward`, or `cache` is not a cache of it.
    ValueError
        If `dout` is not of the shape of the outputs.

    Examples
    --------
    >>> from rnnkernels import temporal_affine_backward, temporal_affine_forward
    >>> out, cache = temporal_affine_forward([[[1.0, 2.0]]], [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], [0.5, 0.5, 0.5])
    >>> dx, dw, db = temporal_affine_backward([[[1.0, 1.0, 1.0]]], cache)
    >>> dx
    array([[[2., 2.]]])
    >>> dw
    array([[1., 1., 1.],
           [2., 2., 2.]])
    """
    cache = check_cache(cache, TemporalAffineCache, "temporal_affine_forward")
    N, T, D = cache.x.shape
    M = cache.w.shape[1]
    dout = check_gradient("dout", dout, "(N, T, M)", (N, T, M), cache.x.dtype).reshape(N * T, M)
    dtype = dout.dtype
    x, w = (np.ascontiguousarray(a, dtype) for a in (cache.x.reshape(N * T, D), cache.w))

    transposed = empty_panels(M, D, dtype)
    layout.pack_transposed(w, 1, transposed)
    dx = empty((N, T, D), dtype)
    _multiply_rows(dout, transposed, aligned_zeros((1, panel_columns(D, dtype)), dtype), dx.reshape(N * T, D))

    columns = panel_columns(M, dtype)
    dw_sums, db_sums = aligned_zeros((D, columns), dtype), aligned_zeros((1, columns), dtype)
    packed = empty_panels(min(BACKWARD_CHUNK_ROWS, N * T), M, dtype)
    ones = np.ones((1, 1), dtype)
    for begin, end in segments(N * T, 2 * D * M):
        kernels.affine_accumulate(x, dout, dw_sums, db_sums, packed, ones, begin, end, BACKWARD_CHUNK_ROWS)
    dw, db = empty((D, M), dtype), empty((1, M), dtype)
    layout.unpack_columns(dw_sums, columns, 1, dw)
    layout.unpack_columns(db_sums, columns, 1, db)
    return dx, dw, db[0]
