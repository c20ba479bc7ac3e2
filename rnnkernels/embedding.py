"""Word embedding."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnkernels._checks import (
    check_axes,
    check_cache,
    check_floats,
    check_gradient,
    check_index_range,
    check_indices,
)
from rnnkernels._memory import empty
from rnnkernels._recorder import profiled
from rnnkernels._sequence import panel_columns
from rnnkernels._threads import Team, segments, threads_for
from rnnkernels._tuning import EMBEDDING_PART_ROWS
from rnnkernels.kernels import embedding as kernels


@dataclass(frozen=True, eq=False, slots=True)
class WordEmbeddingCache:
    """What the backward pass of a word embedding needs; treat it as read-only.

    Attributes
    ----------
    x : ndarray of shape (N, T)
        Word indices: the caller's array, not a copy, unless its dtype or layout had to change.
    W : ndarray of shape (V, D)
        Word vectors, likewise; only their shape and dtype matter.
    """

    x: np.ndarray
    W: np.ndarray


@profiled
def word_embedding_forward(
    x: Any, W: Any, *, keep_cache: bool = True, num_threads: int | None = None
) -> tuple[np.ndarray, WordEmbeddingCache | None]:
    """Look up the vectors of words.

    Parameters
    ----------
    x : array_like of integers of shape (N, T)
        Word indices, 0 <= index < V.
    W : array_like of shape (V, D)
        Word vectors, float32 or float64.
    keep_cache : bool, default True
        Whether to keep what `word_embedding_backward` needs.
    num_threads : int, optional
        Threads that the call may use, instead of `get_num_threads`. The result does not depend on it.

    Returns
    -------
    out : ndarray of shape (N, T, D)
        `W[x]`, in the dtype of `W`.
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
    (W,) = check_floats("W", W)
    check_axes("x", x, "(N, T)")
    check_axes("W", W, "(V, D)")
    check_index_range("x", x, W.shape[0], "V")
    out = empty((*x.shape, W.shape[1]), W.dtype)
    rows = out.reshape(x.size, W.shape[1])
    threads = threads_for(x.size * W.shape[1], -(-x.size // EMBEDDING_PART_ROWS), num_threads)
    with Team(threads) as team:
        for begin, end in segments(x.size, W.shape[1]):
            parts = -(-(end - begin) // EMBEDDING_PART_ROWS)
            team.run(kernels.word_embedding_gather, (x.reshape(-1), W, rows), (begin, end, parts))
    return out, WordEmbeddingCache(x, W) if keep_cache else None


@profiled
def word_embedding_backward(
    dout: Any, cache: WordEmbeddingCache | None, *, num_threads: int | None = None
) -> np.ndarray:
    """Sum gradients into the vectors of the words that they belong to.

    Parameters
    ----------
    dout : array_like of shape (N, T, D)
        Gradient of the loss with respect to the looked-up vectors.
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
        If `dout` is not of the shape of the looked-up vectors.
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
    (N, T), (V, D) = cache.x.shape, cache.W.shape
    dout = check_gradient("dout", dout, "(N, T, D)", (N, T, D), cache.W.dtype)
    check_index_range("cache.x", cache.x, V, "V")
    dW = empty((V, D), dout.dtype)
    dW.fill(0)
    vectors = panel_columns(D, dW.dtype) // panel_columns(1, dW.dtype)
    threads = threads_for(N * T * D, vectors, num_threads)
    with Team(threads) as team:
        for begin, end in segments(N * T, D):
            data = cache.x.reshape(-1), dout.reshape(N * T, D), dW
            team.run(kernels.word_embedding_scatter, data, (begin, end, threads))
    return dW
