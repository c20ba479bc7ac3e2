"""Checks of word embedding, affine layer and loss: indices of words, labels, and the weights of their steps."""

import sys
from typing import Any

import numpy as np

from rnnkernels._checks.arrays import FLOAT64, INTP, as_array, check_axes, check_given_floats, check_shape


def check_indices(name: str, value: Any, used: np.ndarray | None = None) -> np.ndarray:
    """Bring an argument of indices to a C-contiguous array of `np.intp`; where `used` is false they may be anything.

    Raises
    ------
    TypeError
        If it is not of integers.
    IndexError
        If one is larger than any index.
    """
    if type(value) is np.ndarray and value.dtype == INTP:
        flags = value.flags
        if flags.c_contiguous and flags.aligned:
            return value
    array = as_array(name, value)
    if array.dtype.kind not in "iu" and array.size > 0:
        _reject_long_integers(name, value)
        raise TypeError(f"`{name}` must be of integers, since it holds indices; got {array.dtype}.")
    if array.dtype.kind == "u" and array.dtype.itemsize >= np.dtype(np.intp).itemsize:
        if used is not None and used.shape == array.shape:
            array = np.where(used != 0, array, np.zeros((), array.dtype))
        if array.size > 0 and array.max() > np.iinfo(np.intp).max:
            place = np.unravel_index(int(np.argmax(array)), array.shape)
            raise IndexError(f"`{name}`{_at(place)} = {array[place]} is beyond every array.")
    return np.require(array, INTP, ["C", "A"])


def _reject_long_integers(name: str, value: Any) -> None:
    """Name the first index that no integer dtype holds, where only such make a list of integers something else."""
    numbers = np.asarray(value, object)
    if all(isinstance(number, int | np.integer) and not isinstance(number, bool) for number in numbers.flat):
        for place, number in np.ndenumerate(numbers):
            if not -sys.maxsize <= number <= sys.maxsize:
                raise IndexError(f"`{name}`{_at(place)} = {number} is beyond every array.")


def _at(place: tuple[Any, ...]) -> str:
    return f"[{', '.join(str(int(i)) for i in place)}]" if place else ""


def check_index_range(name: str, indices: np.ndarray, count: int, rule: str, used: np.ndarray | None = None) -> None:
    """Reject indices outside 0 <= index < count; where `used` is given, only those where it is true matter.

    Raises
    ------
    IndexError
        If one is outside; kernels do not check bounds.
    """
    if indices.size == 0 or (used is None and indices.min() >= 0 and indices.max() < count):
        return
    outside = (indices < 0) | (indices >= count)
    if used is not None:
        outside &= used
    if outside.any():
        place = tuple(np.argwhere(outside)[0])
        raise IndexError(f"`{name}`{_at(place)} = {indices[place]} is outside 0 <= index < {rule} = {count}.")


def check_mask(name: str, value: Any) -> np.ndarray:
    """Bring a mask of booleans or real weights to a C-contiguous array of float64.

    Raises
    ------
    TypeError
        If it is of another dtype.
    """
    if type(value) is np.ndarray and value.dtype == np.bool_:
        return value.astype(FLOAT64, "C")
    array = as_array(name, value)
    if array.dtype.kind not in "biuf" and array.size > 0:
        raise TypeError(f"`{name}` must be of booleans or of real numbers, which are weights; got {array.dtype}.")
    return np.require(array, FLOAT64, ["C", "A"])


def check_affine(x: Any, w: Any, b: Any) -> list[np.ndarray]:
    """Check the arguments of an affine layer over sequences; returns them as `check_given_floats` does.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    arrays = x, w, b = check_given_floats("x w b", x, w, b)
    if x.ndim != 3 or b.ndim != 1:
        check_axes("x", x, "(N, T, D)")
        check_axes("b", b, "(M,)")
    shape = x.shape[2], b.shape[0]
    if w.shape != shape:
        check_shape("w", w, "(D, M)", shape, "`x` and `b`")
    return arrays


def check_labels(y: Any, mask: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the weights of their steps, (N, T) = `shape`; raises as `check_indices` and `check_mask`.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    mask = check_mask("mask", mask)
    y = check_indices("y", y, mask)
    if y.shape != shape or mask.shape != shape:
        check_shape("y", y, "(N, T)", shape, "`x`")
        check_shape("mask", mask, "(N, T)", shape, "`x`")
    return y, mask
