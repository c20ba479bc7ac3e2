"""The activation functions."""

from typing import Any

import numpy as np

from rnnkernels._checks.arrays import check_given_floats
from rnnkernels._memory import empty
from rnnkernels._recorder import profiled
from rnnkernels._threads import segments
from rnnkernels.kernels import activations as kernels

FLOPS_EACH = 100
"""Operations on one number, about, where memory is slow; divides long calls."""

SMALL = 1 << 20
"""Numbers below which nobody asks how to divide a call."""


@profiled
def sigmoid(x: Any) -> np.ndarray:
    """Logistic function, 1 / (1 + exp(-x)), without overflow.

    Parameters
    ----------
    x : array_like of any shape
        float32 or float64; integers count as float64.

    Returns
    -------
    ndarray of the shape of `x`
        Values from 0 to 1, at most 2 units in the last place from exact; NaN where `x` is NaN.

    Raises
    ------
    TypeError
        If `x` is neither of float32 or float64 nor of integers.

    Examples
    --------
    >>> from rnnkernels import sigmoid
    >>> sigmoid([-1000.0, 0.0, 1000.0])
    array([0. , 0.5, 1. ])
    """
    (x,) = check_given_floats("x", x)
    out = empty(x.shape, x.dtype)
    numbers, results = x.reshape(-1), out.reshape(-1)
    kernel = kernels.SIGMOID_OF_ARRAY[x.dtype]
    if x.size < SMALL:
        kernel(numbers, results)
        return out
    for begin, end in segments(x.size, FLOPS_EACH):
        kernel(numbers[begin:end], results[begin:end])
    return out
