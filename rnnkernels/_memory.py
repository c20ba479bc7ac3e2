"""Where arrays come from: results for the caller, and aligned scratch for the kernels."""

import math

import numpy as np

CACHE_LINE_BYTES = 64


empty = np.empty
"""An array for a result or for a cache, of a shape and a dtype; its contents are arbitrary."""


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return scratch that starts at a cache line, so that no vector of a row of whole lines straddles two of them."""
    raw = np.empty(math.prod(shape) * dtype.itemsize + CACHE_LINE_BYTES, np.uint8)
    return np.ndarray(shape, dtype, raw, -raw.ctypes.data % CACHE_LINE_BYTES)


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return aligned scratch filled with zeros."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array
