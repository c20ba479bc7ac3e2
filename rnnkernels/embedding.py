"""Word embedding."""

from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

from rnnkernels._checks.arrays import INTP, check_axes, check_given_float, for_kernels
from rnnkernels._checks.caches import check_cache, check_cache_array
from rnnkernels._checks.gradients import check_given_gradient
from rnnkernels._checks.words import check_index_range, check_indices
from rnnkernels._memory import empty, zeros
from rnnkernels._packing import panel_columns
from rnnkernels._recorder import profiled
from rnnkernels._threads import Team, is_for_one, segments, threads_for
from rnnkernels._tuning import EMBEDDING_PART_ROWS
from rnnkernels.kernels import embedding as kernels


@dataclass(eq=False, slots=True)  # not frozen, which would take 0.3 us more
class WordEmbeddingCache:
    """What the backward pass of a word embedding needs; treat it as read-only.

    Attributes
    ----------
    x : ndarray of integers of any shape
        Word indices: the caller's array, not a copy, unless its dtype or layout had to change.
    W : ndarray of shape (V, D)
        Word vectors, likewise; only their shape and dtype matter.
    """

    x: np.ndarray
    W: np.ndarray


@overload
def word_embedding_forward(
    x: Any, W: Any, *, keep_cache: Literal[True] = True, num_threads: int | None = None
) -> tuple[np.ndarray, WordEmbeddingCache]: ...
@overload
def word_embedding_forward(
    x: Any, W: Any, *, keep_cache: Literal[False], num_threads: int | None = None
) -> tuple[np.ndarray, None]: ...
@overload
def word_embedding_forward(
    x: Any, W: Any, *, keep_cache: bool, num_threads: int | None = None
) -> tuple[np.ndarray, WordEmbeddingCache | None]: ...
@profiled
def word_embedding_forward(
    x: Any, W: Any, *, keep_cache: bool = True, num_threads: int | None = None
) -> tuple[np.ndarray, WordEmbeddingCache | None]:
    """Look up the vectors of words.

    Parameters
    ----------
    x : array_like of integers of shape (N, T), or of any other
        Word indices, 0 <= index < V: one word, one for each row, sequences.
    W : array_like of shape (V, D)
        Word vectors, float32 or float64.
    keep_cache : bool, default True
        Whether to keep what `word_embedding_backward` needs.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    out : ndarray of shape (N, T, D)
        `W[x]`, in the dtype of `W`; of the shape of `x` and (D,) for others.
    cache : WordEmbeddingCache or None
        For `word_embedding_backward`; None if `keep_cache` is false.

    Raises
    ------
    IndexError
        If an index is outside its range; negative ones do not count from the end.
    TypeError
        If `x` is not of integers, or `W` neither of float32 or float64 nor of integers.
    ValueError
        If a shape does not fit.

    Examples
    --------
    >>> from rnnkernels import word_embedding_forward
    >>> out, cache = word_embedding_forward([[2, 0]], [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]])
    >>> out
    array([[[2. , 2.5],
            [0. , 0.5]]])
    """
    x = check_indices("x", x)
    W = check_given_float("W", W)
    if W.ndim != 2:
        check_axes("W", W, "(V, D)")
    (V, D), count = W.shape, x.size
    out = empty((*x.shape, D), W.dtype)
    if is_for_one(count * D, num_threads):
        words, rows = (x, out) if x.ndim == 2 else (x.reshape(1, count), out.reshape(1, count, D))
        if kernels.LOOKUP[W.dtype](words, W, rows) < count:
            check_index_range("x", x, V, "V")
    else:
        check_index_range("x", x, V, "V")
        words, rows = x.reshape(count), out.reshape(count, D)
        threads = threads_for(count * D, -(-count // EMBEDDING_PART_ROWS), num_threads)
        with Team(threads, ("word_embedding_forward", count, D, V, W.dtype)) as team:
            for begin, end in segments(count, D):
                parts = -(-(end - begin) // EMBEDDING_PART_ROWS)
                data = for_kernels(words), for_kernels(W), rows
                team.run(kernels.word_embedding_gather, data, (begin, end, parts))
    return out, WordEmbeddingCache(x, W) if keep_cache else None


@profiled
def word_embedding_backward(
    dout: Any, cache: WordEmbeddingCache | None, *, num_threads: int | None = None
) -> np.ndarray:
    """Sum gradients into the vectors of the words that they belong to.

    Parameters
    ----------
    dout : array_like of shape (N, T, D), or that of the looked-up vectors
        Gradient of the loss with respect to them.
    cache : WordEmbeddingCache
        From `word_embedding_forward`. It is not changed and can be used again.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    dW : ndarray of shape (V, D)
        Gradient of `W`; zero for words that do not occur. Repeated words are summed in the order of `x`.

    Raises
    ------
    TypeError
        If `dout` is not numeric as for `word_embedding_forward`, or `cache` is not a cache of it.
    ValueError
        If `dout` is not of the shape of the looked-up vectors, or an array of the cache is no longer what it was.
    IndexError
        If the indices were changed since the forward pass, and one is now outside its range.

    Examples
    --------
    >>> from rnnkernels import word_embedding_backward, word_embedding_forward
    >>> out, cache = word_embedding_forward([[1, 0, 1]], [[0.0], [0.0], [0.0]])
    >>> word_embedding_backward([[[1.0], [2.0], [4.0]]], cache)
    array([[2.],
           [5.],
           [0.]])
    """
    cache = check_cache(cache, WordEmbeddingCache, "word_embedding_forward")
    x, W = cache.x, cache.W
    check_cache_array("x", x, None, INTP)
    check_cache_array("W", W, 2)
    (V, D), count = W.shape, x.size
    symbols = "(N, T, D)" if x.ndim == 2 else "(*shape of x, D)"
    dout = check_given_gradient("dout", dout, symbols, (*x.shape, D), W.dtype)
    dW = zeros((V, D), dout.dtype)
    if is_for_one(count * D, num_threads):
        words, rows = (x, dout) if x.ndim == 2 else (x.reshape(1, count), dout.reshape(1, count, D))
        if kernels.SUM[dW.dtype](words, rows, dW) < count:
            check_index_range("cache.x", x, V, "V")
        return dW
    words, rows = x.reshape(count), dout.reshape(count, D)
    check_index_range("cache.x", x, V, "V")
    vectors = panel_columns(D, dW.dtype) // panel_columns(1, dW.dtype)
    threads = threads_for(count * D, vectors, num_threads)
    with Team(threads, ("word_embedding_backward", count, D, V, dW.dtype)) as team:
        for begin, end in segments(count, D):
            data = for_kernels(words), for_kernels(rows), dW
            team.run(kernels.word_embedding_scatter, data, (begin, end, threads))
    return dW
