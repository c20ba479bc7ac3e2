"""Checks of a stream: its states, the input of a step, the rows that take part, and where results go."""

from typing import Any

import numpy as np

from rnnkernels._checks.arrays import check_axes, check_floats, check_given_float, check_shape
from rnnkernels._checks.cells import Sizes
from rnnkernels._checks.settings import check_count


def check_states(
    names: tuple[str, ...], states: tuple[Any, ...], batch_size: Any, sizes: Sizes, dtype: np.dtype
) -> tuple[list[np.ndarray | None], int]:
    """Check the states of a stream, and find out how many sequences it has; None stays None.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    given = [
        None if state is None else check_given_float(name, state) for name, state in zip(names, states, strict=True)
    ]
    named = zip(names, given, strict=True)
    matrices = [(name, state) for name, state in named if state is not None and state.ndim == 2]
    source, N = "the default of `batch_size`", 1
    if batch_size is not None:
        source, N = "`batch_size`", check_count("batch_size", batch_size, 0)
    elif matrices:  # one row broadcasts to those of the other state
        deciding, rows = next((pair for pair in matrices if pair[1].shape[0] != 1), matrices[0])
        source, N = f"`{deciding}`", rows.shape[0]
    checked: list[np.ndarray | None] = []
    of_h = ("P", sizes.P, "projection") if sizes.projected else ("H", sizes.H, "b")
    for name, state, (symbol, width, of) in zip(names, given, (of_h, ("H", sizes.H, "b")), strict=False):
        if state is not None and state.shape not in ((), (width,), (1, width)):
            check_axes(name, state, f"(N, {symbol})")
            check_shape(name, state, f"(N, {symbol})", (N, width), f"{source} and `{of}`")
        checked.append(None if state is None else state.astype(dtype, copy=False))
    return checked, N


def check_rows(rows: Any, N: int) -> np.ndarray:
    """Return a mask of sequences; all if `rows` is None.

    Raises
    ------
    TypeError, ValueError
        If it is not of booleans, or its shape does not fit.
    """
    if rows is None:
        return np.ones(N, np.bool_)
    mask = np.asarray(rows)
    if mask.dtype != np.bool_:
        raise TypeError(f"`rows` must be of booleans, one for each sequence; got {mask.dtype}.")
    check_shape("rows", mask, "(N,)", (N,), "the stream")
    return mask


def check_for_stream(name: str, value: Any, symbols: str, shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
    """Bring an argument to the dtype of a stream and to the layout of the kernels; None in `shape` fits any length.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    (array,) = check_floats(name, value)
    is_single = shape[0] == 1 and array.ndim == len(shape) - 1
    check_axes(name, array, symbols, f" Pass `{name}[np.newaxis]`, a batch of one." if is_single else "")
    wanted = tuple(came if length is None else length for length, came in zip(shape, array.shape, strict=True))
    check_shape(name, array, symbols, wanted, "the stream")
    return array.astype(dtype, copy=False)


def check_out(out: Any, symbols: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Reject an array that a result cannot be written to.

    Raises
    ------
    TypeError, ValueError
        If it is not a plain array of this dtype, or its shape or layout does not fit.
    """
    if type(out) is not np.ndarray or out.dtype != dtype:
        got = f"an array of {out.dtype}" if type(out) is np.ndarray else type(out).__name__
        raise TypeError(f"`out` must be a NumPy array of {dtype}, the dtype of the stream; got {got}.")
    check_shape("out", out, symbols, shape, "the stream")
    if not out.flags.carray:
        raise ValueError("`out` must be writable, C-contiguous and aligned, since results are written straight to it.")
