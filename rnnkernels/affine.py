"""The affine layer over sequences."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from rnnkernels._checks.arrays import check_shape, for_kernels
from rnnkernels._checks.caches import check_cache, check_cache_array
from rnnkernels._checks.gradients import check_given_gradient
from rnnkernels._checks.words import check_affine
from rnnkernels._memory import aligned_empty, aligned_zeros, empty, thread_scratch
from rnnkernels._packing import pack, packing_of, panel_columns, panels_shape, unit_columns
from rnnkernels._recorder import profiled
from rnnkernels._sequence import (
    blocks_shape,
    row_stride,
    unpack,
)
from rnnkernels._threads import Team, is_for_one, segments, threads_for
from rnnkernels._tuning import AFFINE_BLOCK_ROWS, AFFINE_PART_PANELS, BACKWARD_CHUNK_ROWS
from rnnkernels.kernels import affine as kernels
from rnnkernels.kernels import layout, passes
from rnnkernels.kernels.simd import lanes_of

FEW_ROWS = 32
"""Rows up to which weights are read where they lie or a block at a time."""

SMALL_FLOPS = 2e6
"""Work of a call with more rows up to which that takes less time than to pack them."""


@dataclass(eq=False, slots=True)  # not frozen, which would take 0.3 us more
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


@overload
def temporal_affine_forward(
    x: Any, w: Any, b: Any, *, keep_cache: Literal[True] = True, num_threads: int | None = None
) -> tuple[np.ndarray, TemporalAffineCache]: ...
@overload
def temporal_affine_forward(
    x: Any, w: Any, b: Any, *, keep_cache: Literal[False], num_threads: int | None = None
) -> tuple[np.ndarray, None]: ...
@overload
def temporal_affine_forward(
    x: Any, w: Any, b: Any, *, keep_cache: bool, num_threads: int | None = None
) -> tuple[np.ndarray, TemporalAffineCache | None]: ...
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
    x, w, b = check_affine(x, w, b)
    (N, T, D), (M,) = x.shape, b.shape
    out = empty((N, T, M), x.dtype)
    rows, results = x.reshape(N * T, D), out.reshape(N * T, M)
    if is_small(N * T, 2 * D * M, num_threads):
        kernels.FORWARD_ALONE[x.dtype](rows, w, b, results, thread_scratch(x.dtype))
    else:
        start = aligned_empty((1, panel_columns(M, x.dtype)), x.dtype)
        passes.interleave_bias(for_kernels(b), 0, 1, 1, start.reshape(-1), 0, start.size // lanes_of(x.dtype))
        _multiply_rows(layout.pack_columns, for_kernels(rows), for_kernels(w), start, results, num_threads)
    return out, TemporalAffineCache(x, w) if keep_cache else None


def is_small(rows: int, flops_each: int, num_threads: int | None) -> bool:
    """Whether a call is for one thread, and has so few rows or so little work that packing does not pay."""
    flops = rows * flops_each
    return (rows <= FEW_ROWS or flops < SMALL_FLOPS) and is_for_one(flops, num_threads)


def _multiply_rows(
    kernel: Callable[..., None],
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
    with Team(threads, (kernel.__name__, x.shape, out.shape[1], x.dtype)) as team:
        shape = panels_shape(depth, out.shape[1], x.dtype)
        (packed,) = pack(team, packing_of([(kernel, 0, 0, 1, 1, shape)]), (w,))
        panels = packed.reshape(shape)
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
    check_cache_array("x", cache.x, 3)
    check_cache_array("w", cache.w, 2)
    (N, T, D), M = cache.x.shape, cache.w.shape[1]
    if cache.w.shape[0] != D:
        check_shape("cache.w", cache.w, "(D, M)", (D, M), "`cache.x`")
    dout = check_given_gradient("dout", dout, "(N, T, M)", (N, T, M), cache.x.dtype)
    dtype = dout.dtype
    x, w, dout = cache.x.reshape(N * T, D), cache.w, dout.reshape(N * T, M)
    if not (x.dtype is dtype and w.dtype is dtype):
        x, w = x.astype(dtype, copy=False), w.astype(dtype, copy=False)

    dx, dw, db = empty((N, T, D), dtype), empty((D, M), dtype), empty((M,), dtype)
    if is_small(N * T, 4 * D * M, num_threads):
        kernels.BACKWARD_ALONE[dtype](x, w, dout, dx.reshape(N * T, D), dw, db, thread_scratch(dtype))
        return dx, dw, db

    x, w, dout = for_kernels(x), for_kernels(w), for_kernels(dout)
    zeros = aligned_zeros((1, panel_columns(max(D, M), dtype)), dtype)
    _multiply_rows(layout.pack_transposed, dout, w, zeros, dx.reshape(N * T, D), num_threads)
    if N * T == 0:
        dw.fill(0)
        db.fill(0)
        return dx, dw, db
    columns = panel_columns(M, dtype)
    sums = aligned_empty(blocks_shape(D, M, dtype), dtype), aligned_empty((1, columns), dtype)
    block, panels = min(BACKWARD_CHUNK_ROWS, N * T), columns // panel_columns(1, dtype)
    parts = max(panels // AFFINE_PART_PANELS, 1)
    threads = threads_for(2 * N * T * D * M, parts, num_threads)
    scratch = (
        aligned_empty((threads, unit_columns(D, dtype), row_stride(block, dtype)), dtype),
        aligned_empty((threads, block * layout.PANELS_AT_ONCE * panel_columns(1, dtype)), dtype),
    )
    with Team(threads, ("temporal_affine_backward", N * T, D, M, dtype)) as team:
        for begin, end in reversed(list(segments(N * T, 2 * D * M))):
            data = (x, dout, *sums, *scratch, zeros)
            team.run(kernels.affine_accumulate, data, (begin, end, block, parts))
        unpack(team, sums[0], 1, dw)
    db[...] = sums[1][0, :M]
    return dx, dw, db
