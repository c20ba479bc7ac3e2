"""Checks of any array: dtype, layout, axes and shape. All other checks use them.

The functions return what the kernels need: arrays of one float dtype, C-contiguous and aligned, without a copy where
the argument is so already.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INTP = np.dtype(np.intp)
INT64 = np.dtype(np.int64)
BOOL = np.dtype(np.bool_)

IN_LAYOUT = 0x101
"""Flags of an array in the layout of the kernels, C-contiguous and aligned, in `flags.num`."""


def check_floats(names: str, *values: Any) -> list[np.ndarray]:
    """Bring arguments to one float dtype and to the layout of the kernels.

    Parameters
    ----------
    names : str
        Names of the arguments, separated by spaces, for the messages.
    *values : array_like
        The arguments.

    Returns
    -------
    list of ndarray
        C-contiguous, aligned arrays of dtype float32 or float64, `np.result_type` of the arguments; see `for_kernels`.

    Raises
    ------
    TypeError
        If an argument is neither of float32 or float64 nor of integers.
    ValueError
        If an argument cannot be made an array.
    """
    return [for_kernels(array) for array in check_given_floats(names, *values)]


def check_given_floats(names: str, *values: Any) -> list[np.ndarray]:
    """Do as `check_floats`, but return the caller's own arrays where they fit: what is read-only stays so.

    These are what a cache may hold, and what an entry point of a kernel takes.
    """
    dtype = getattr(values[0], "dtype", None)
    for value in values:
        if type(value) is not np.ndarray or value.dtype != dtype:
            break
        flags = value.flags
        if not (flags.c_contiguous and flags.aligned):
            break
    else:
        if dtype in (FLOAT32, FLOAT64):
            return list(values)
    arrays = [as_array(name, value) for name, value in zip(names.split(), values, strict=True)]
    dtypes = []
    for name, array in zip(names.split(), arrays, strict=True):
        if array.dtype.kind in "iuf" and (array.dtype.kind != "f" or array.dtype.itemsize in (4, 8)):
            dtypes.append(array.dtype.newbyteorder("="))
        else:
            raise TypeError(
                f"`{name}` must be of float32 or float64, or of integers, which count as float64; got {array.dtype}. "
                f"Convert it, for example with `np.asarray({name}, np.float32)`."
            )
    common = np.result_type(*dtypes)
    return [np.require(array, common if common.kind == "f" else FLOAT64, ["C", "A"]) for array in arrays]


def check_given_float(name: str, value: Any) -> np.ndarray:
    """Do as `check_given_floats` for one argument."""
    if type(value) is np.ndarray and ((dtype := value.dtype) is FLOAT32 or dtype is FLOAT64):
        flags = value.flags
        if flags.c_contiguous and flags.aligned:
            return value
    return check_given_floats(name, value)[0]


IF_NONE = {
    "b": " A layer without bias takes zeros.",
    "mask": " Where every step counts it is `np.ones(y.shape)`.",
}


def as_array(name: str, value: Any) -> np.ndarray:
    if value is None:
        raise TypeError(f"`{name}` must be an array; got None.{IF_NONE.get(name, ' It has no default.')}")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` cannot be made an array: {error}") from None


class _WritableAlias:
    """The memory of a read-only array, for kernels that do not write to it; see `for_kernels`."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def for_kernels(array: np.ndarray) -> np.ndarray:
    """Return the array, or its memory as a writable one if it is read-only.

    Numba compiles a kernel once more for read-only arguments, and a copy could be large. The alias is for the arguments
    of kernels only: who writes to it may end the process.
    """
    return array if array.flags.writeable else np.asarray(_WritableAlias(array))


def check_axes(name: str, array: np.ndarray, symbols: str, cure: str = "") -> None:
    """Reject an array whose number of axes is not that of `symbols`, such as "(N, T, D)".

    Raises
    ------
    ValueError
        If it is not; with `cure`.
    """
    axes = symbols.count(",") + (not symbols.endswith(",)"))
    if array.ndim != axes:
        raise ValueError(f"`{name}` must have shape {symbols}, {axes} axes; got shape {array.shape}.{cure}")


def check_shape(
    name: str, array: np.ndarray, symbols: str, shape: tuple[int, ...], match: str = "", cure: str = ""
) -> None:
    """Reject an array that is not of `shape`.

    Raises
    ------
    ValueError
        If it is not; with `match`, the arguments that ask for the shape, and `cure`.
    """
    if array.shape == shape:
        return
    reason = f" to match {match}" if match else ""
    if not cure and array.ndim == 2 and array.shape == shape[::-1]:
        cure = f" This is its transpose: pass `{name}.T`."
    raise ValueError(f"`{name}` must have shape {symbols} = {shape}{reason}; got {array.shape}.{cure}")


def is_plain(dtype: np.dtype | None, arrays: Iterable[Any]) -> bool:
    """Whether all are of float32 or all of float64, as the argument `dtype` is, and in the layout of the kernels."""
    if dtype not in (FLOAT32, FLOAT64):
        return False
    for array in arrays:
        # The dtype of an array that comes out of a pickle is equal to the others, but not the same object.
        if type(array) is not np.ndarray or (array.dtype is not dtype and array.dtype != dtype):
            return False
        if array.flags.num & IN_LAYOUT != IN_LAYOUT:
            return False
    return True


def is_in_layout(array: Any) -> bool:
    return type(array) is np.ndarray and array.flags.num & IN_LAYOUT == IN_LAYOUT
