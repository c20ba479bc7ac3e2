"""Checks of what says where sequences begin and end: lengths, resets, spans of them, and a series that is cut."""

from typing import Any, NoReturn

import numpy as np

from rnnkernels._checks.arrays import BOOL, FLOAT32, FLOAT64, INT64, as_array, check_axes, check_shape, is_in_layout
from rnnkernels._checks.settings import check_float_dtype
from rnnkernels.kernels import spans as span_kernels


def check_lengths(lengths: Any, N: int) -> np.ndarray:
    """Return the numbers of valid steps of N sequences as an array of int64; who uses it looks at their range.

    Raises
    ------
    TypeError, ValueError
        If they are no integers, or not one for each sequence.
    """
    if type(lengths) is np.ndarray and lengths.dtype is INT64 and lengths.shape == (N,) and is_in_layout(lengths):
        return lengths
    array = as_array("lengths", lengths)
    if array.dtype.kind not in "iu" and array.size > 0:
        raise TypeError(f"`lengths` must be of integers, the valid steps of each sequence; got {array.dtype}.")
    check_shape("lengths", array, "(N,)", (N,), "`x`")
    return np.require(array, INT64, ["C", "A"])


def refuse_lengths(lengths: Any, T: int) -> NoReturn:
    """Say which number of valid steps is out of range.

    Raises
    ------
    ValueError
        Always.
    """
    array = np.asarray(lengths)
    n = int(np.argmax((array < 0) | (array > T)))
    raise ValueError(f"`lengths[{n}]` = {array[n]} is outside 0 <= length <= T = {T}, the steps of `x`.")


def check_resets(resets: Any, N: int, T: int) -> np.ndarray:
    """Return a mask of the steps at which sequences begin anew.

    Raises
    ------
    TypeError, ValueError
        If it is not of booleans, or its shape does not fit.
    """
    if type(resets) is np.ndarray and resets.dtype is BOOL and resets.shape == (N, T) and resets.flags.c_contiguous:
        return resets
    mask = as_array("resets", resets)
    if mask.dtype != np.bool_:
        raise TypeError(
            f"`resets` must be of booleans, true where a sequence begins anew; got {mask.dtype}. "
            "For numbers 0 and 1 pass `resets != 0`."
        )
    check_shape("resets", mask, "(N, T)", (N, T), "`x`")
    return np.ascontiguousarray(mask)


SPAN_FIELDS = "table", "onward", "shape", "steps", "longest", "shortest", "in_order"


def are_spans_of(spans: Any, N: int, T: int) -> bool:
    """Whether spans stay within the rows of N sequences of T steps, longer ones first."""
    if getattr(spans, "_fields", None) != SPAN_FIELDS:
        return False
    table, onward, shape, steps, longest, _, in_order = spans
    return bool(
        shape == (N, T)
        and type(onward) is type(longest) is int
        and onward in (1, -1)
        and is_in_layout(table)
        and table.dtype == INT64
        and table.ndim == 2
        and len(table) == span_kernels.ROWS
        and span_kernels.CHECK[INT64](table, onward, N, T, longest, bool(in_order)) == steps
    )


def check_series(series: Any, dtype: Any, batch_size: int, horizon: int) -> tuple[Any, np.dtype]:
    """Check a series (T, D) that is to be read in parts; returns it, never a copy of an array, and a dtype for these.

    What has a NumPy dtype is left as it is: it may be a file.

    Raises
    ------
    TypeError
        If it is not of real numbers, or needs a dtype, or `dtype` is not one of the two.
    ValueError
        If it has other axes, or too few steps for one input and its target in each stream.
    """
    if not isinstance(getattr(series, "dtype", None), np.dtype):
        series = as_array("series", series)
    found = series.dtype.newbyteorder("=")
    if dtype is not None:
        dtype = check_float_dtype("dtype", dtype)
    elif found.kind in "iu":
        dtype = FLOAT64
    elif found in (FLOAT32, FLOAT64):
        dtype = found
    if dtype is None or found.kind not in "iuf":
        cure = " Name one of the two for its windows, as in `dtype=np.float32`." if found.kind == "f" else ""
        raise TypeError(f"`series` must be of float32 or float64, or of integers; got {series.dtype}.{cure}")
    one_column = " A single column is `series[:, np.newaxis]`." if series.ndim == 1 else ""
    check_axes("series", series, "(T, D)", one_column)
    if (T := series.shape[0]) < batch_size + horizon:
        raise ValueError(
            f"`series` must have T >= batch_size + horizon = {batch_size + horizon} steps, for an input and its target "
            f"in each stream; got T = {T}."
        )
    return series, dtype
