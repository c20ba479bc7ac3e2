"""What is done with the gradients of many parameters at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnkernels._checks.gradients import check_gradients, check_max_norm
from rnnkernels._recorder import profiled

BLOCK = 1 << 14
"""Elements that are squared at a time, in float64: they stay in a near cache."""


@profiled
def clip_gradients(gradients: Mapping[Any, np.ndarray], max_norm: float) -> float:
    """Scale gradients down in place so that their norm, taken together, is at most `max_norm`.

    Parameters
    ----------
    gradients : dict of ndarray
        By name, as from `backward` of a layer; of float32 or float64, which may be mixed. Those of several layers can
        be clipped together: ``clip_gradients({"Wx": ..., "W_out": ...}, 1.0)``.
    max_norm : float
        The limit; infinity leaves all as it is.

    Returns
    -------
    norm : float
        The norm before: the root of the sum of all squares of all arrays, accumulated in float64.

    Raises
    ------
    TypeError
        If a gradient is no array of float32 or float64, or `max_norm` is no number.
    ValueError
        If a gradient is read-only, or `max_norm` is negative.

    Notes
    -----
    Where a gradient has infinity or NaN, or the sum of squares is beyond float64, the norm is so, and the gradients
    stay as they are: test the norm to leave out such a step. Each array is read once, and once more where it is scaled.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnkernels import clip_gradients
    >>> gradients = {"Wx": np.array([[3.0, 0.0]]), "b": np.array([4.0])}
    >>> clip_gradients(gradients, 1.0)
    5.0
    >>> gradients["b"]
    array([0.8])
    """
    arrays, limit = check_gradients(gradients), check_max_norm(max_norm)
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.sqrt(sum(_sum_of_squares(array) for array in arrays)))
    if limit < norm < np.inf:
        for array in arrays:
            array *= array.dtype.type(limit / norm)
    return norm


def _sum_of_squares(array: np.ndarray) -> float:
    flat = array.reshape(-1)
    blocks = [flat[begin : begin + BLOCK] for begin in range(0, flat.size, BLOCK)]
    return sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)
