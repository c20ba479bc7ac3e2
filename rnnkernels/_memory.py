"""Where arrays come from: results for the caller, and aligned scratch for the kernels."""

import math
import threading

import numpy as np

from rnnkernels.kernels.simd import CACHE_LINE_BYTES

empty = np.empty
"""An array for a result or for a cache, of a shape and a dtype; its contents are arbitrary."""

zeros = np.zeros
"""The same filled with zeros; what is large comes from the system so, and costs nothing until it is used."""

_nothing: dict[np.dtype, np.ndarray] = {}


def shared_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return zeros that all have in common, read-only: the memory of the largest serves the others."""
    size, whole = math.prod(shape), _nothing.get(dtype)
    if whole is None or whole.size < size:
        whole = _nothing[dtype] = zeros((2 * size,), dtype)
        whole.setflags(write=False)
    return whole[:size].reshape(shape)


SCRATCH_BYTES = 64 << 10
"""Scratch that each thread keeps for its small calls: to get new memory takes longer than many of them."""


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.by_dtype: dict[np.dtype, np.ndarray] = {}


_scratch = _Scratch()


def thread_scratch(dtype: np.dtype) -> np.ndarray:
    """Return SCRATCH_BYTES of this thread as an array of one row, for one kernel call: the next one gets it again."""
    kept = _scratch.by_dtype.get(dtype)
    if kept is None:
        kept = _scratch.by_dtype[dtype] = aligned_empty((1, SCRATCH_BYTES // dtype.itemsize), dtype)
    return kept


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return scratch that starts at a cache line, so that no vector of a row of whole lines straddles two of them."""
    raw = np.empty(math.prod(shape) * dtype.itemsize + CACHE_LINE_BYTES, np.uint8)
    return np.ndarray(shape, dtype, raw, -raw.ctypes.data % CACHE_LINE_BYTES)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return aligned scratch filled with zeros."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array


def whole_lines(size: int, dtype: np.dtype) -> int:
    """Elements rounded up to whole cache lines."""
    line = CACHE_LINE_BYTES // dtype.itemsize
    return -(-size // line) * line


SMALL_SCRATCH = 1 << 20
"""Bytes of scratch that are kept for the next call; more is taken from the system and given back."""

MOST_KEPT = 8
"""Pieces of scratch that are kept for each dtype: as many as there may be calls at a time that gain by it."""

_kept: dict[np.dtype, list[np.ndarray]] = {np.dtype(np.float32): [], np.dtype(np.float64): []}


def borrow(size: int, dtype: np.dtype) -> np.ndarray:
    """Return flat aligned scratch of at least `size` elements; `give_back` it, unless something went wrong.

    A call had better borrow one piece: the C library of Linux gives memory back to the system when more is free than
    twice the largest piece that it got back, and then each page of the next call is a fault.
    """
    if size * dtype.itemsize <= SMALL_SCRATCH:
        try:
            return _kept[dtype].pop()
        except IndexError:
            size = SMALL_SCRATCH // dtype.itemsize
    return aligned_empty((size,), dtype)


def give_back(scratch: np.ndarray) -> None:
    """Let another call have what `borrow` returned, if it is small."""
    pieces = _kept[scratch.dtype]
    if scratch.nbytes == SMALL_SCRATCH and len(pieces) < MOST_KEPT:
        pieces.append(scratch)
