"""The affine layer over sequences."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnkernels._checks import check_axes, check_cache, check_floats, check_gradient, check_shape
from rnnkernels._memory import aligned_empty, aligned_zeros, empty
from rnnkernels._recorder import profiled
from rnnkernels._sequence import blocks_shape, pack, panel_columns, panels_shape, row_stride, unit_columns, unpack
from rnnkernels._threads import Team, segments, threads_for
from rnnkernels._tuning import AFFINE_BLOCK_ROWS, AFFINE_PART_PANELS, BACKWARD_CHUNK_ROWS
from rnnkernels.kernels import affine as kernels
from rnnkernels.kernels import layout, passes
from rnnkernels.kernels.simd import lanes_of


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


@profiled
def temporal_affine_forward(
    x: Any, w: Any, b: Any, *, keep_cache: bool = True, num_threads: int | None = None
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
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

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
    start = aligned_empty((1, panel_columns(M, x.dtype)), x.dtype)
    passes.interleave_biases((b,), 1, start.reshape(-1), 0, start.size // lanes_of(x.dtype))
    _multiply_rows(layout.pack_columns, x.reshape(N * T, D), w, start, out.reshape(N * T, M), num_threads)
    return out, TemporalAffineCache(x, w) if keep_cache else None


def _multiply_rows(
    packing: Callable[..., None],
    x: np.ndarray,
    w: np.ndarray,
    start: np.ndarray,
    out: np.ndarray,
    num_threads: int | None,
) -> None:
    rows, depth = x.shape
    flops = 2 * depth * out.shape[1]
    threads = threads_for(rows * flops, -(-rows // AFFINE_BLOCK_ROWS), num_threads)
    edge = aligned_empty((threads, AFFINE_BLOCK_ROWS * panel_columns(1, x.dtype)), x.dtype)
    with Team(threads) as team:
        (panels,) = pack(team, packing, (w,), 1, [panels_shape(depth, out.shape[1], x.dtype)])
        for begin, end in segments(rows, flops):
            team.run(kernels.affine_forward, (x, panels, start, out, edge), (begin, end, AFFINE_BLOCK_ROWS))


@profiled
def temporal_affine_backward(
    dout: Any, cache: TemporalAffineCache | None, *, num_threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Propagate gradients back through an affine layer.

    Parameters
    ----------
    dout : array_like of shape (N, T, M)
        Gradient of the loss with respect to the outputs.
    cache : TemporalAffineCache
        From `temporal_affine_forward`. It is not changed and can be used again.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

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

    dx = empty((N, T, D), dtype)
    zeros = aligned_zeros((1, panel_columns(max(D, M), dtype)), dtype)
    _multiply_rows(layout.pack_transposed, dout, w, zeros, dx.reshape(N * T, D), num_threads)

    dw, db = empty((D, M), dtype), empty((1, M), dtype)
    if N * T == 0:
        dw.fill(0)
        db.fill(0)
        return dx, dw, db[0]
    columns = panel_columns(M, dtype)
    sums = aligned_empty(blocks_shape(D, M, dtype), dtype), aligned_empty((1, columns), dtype)
    block, panels = min(BACKWARD_CHUNK_ROWS, N * T), columns // panel_columns(1, dtype)
    parts = max(panels // AFFINE_PART_PANELS, 1)
    threads = threads_for(2 * N * T * D * M, parts, num_threads)
    scratch = (
        aligned_empty((threads, unit_columns(D, dtype), row_stride(block, dtype)), dtype),
        aligned_empty((threads, block * layout.PANELS_AT_ONCE * panel_columns(1, dtype)), dtype),
    )
    with Team(threads) as team:
        for begin, end in reversed(list(segments(N * T, 2 * D * M))):
            data = (x, dout, *sums, *scratch, zeros)
            team.run(kernels.affine_accumulate, data, (begin, end, block, parts))
        unpack(team, sums[0], 1, dw)
    db[...] = sums[1][:, :M]
    return dx, dw, db[0]
