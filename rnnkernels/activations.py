"""The activation functions."""

from typing import Any

import numpy as np

from rnnkernels._checks import check_floats
from rnnkernels._memory import empty
from rnnkernels._recorder import profiled
from rnnkernels.kernels import activations as kernels


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
    (x,) = check_floats("x", x)
    out = empty(x.shape, x.dtype)
    kernels.sigmoid_of_array(x.reshape(-1), out.reshape(-1))
    return out
