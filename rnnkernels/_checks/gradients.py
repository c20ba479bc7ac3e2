"""Checks of gradients that come from outside: of outputs, of last states, and of parameters to be clipped."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnkernels._checks.arrays import FLOAT32, FLOAT64, check_given_float, check_shape
from rnnkernels._checks.cells import Sizes
from rnnkernels.kernels.cell import Cell


def check_given_gradient(name: str, value: Any, symbols: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Check a gradient that comes from outside; its dtype is at least that of the cache, `dtype`.

    The caller's own array is returned where it fits, and may be read-only.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    gradient = check_given_float(name, value)
    if gradient.shape != shape:
        check_shape(name, gradient, symbols, shape, "the cache")
    return gradient if gradient.dtype is dtype else gradient.astype(np.result_type(gradient, dtype), copy=False)


def check_broadcast(name: str, value: Any, symbols: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a gradient that broadcasts over the batch as what it belongs to did.

    Raises
    ------
    TypeError, ValueError
        If its dtype or shape does not fit.
    """
    array = check_given_float(name, value)
    if array.shape not in ((), shape[1:], (1, *shape[1:]), shape):
        check_shape(name, array, symbols, shape, "the cache")
    return np.require(np.broadcast_to(array, shape), None, ["C", "A"])


def check_dstate(cell: Cell, dstate: Any, N: int, sizes: Sizes, dtype: np.dtype) -> list[np.ndarray | None]:
    """Check the gradient of a last state: a tuple of one for each state, or the only one; None is zero.

    Raises
    ------
    TypeError, ValueError
        If there are more or fewer, or a dtype or shape does not fit.
    """
    states = cell.states
    if dstate is None:
        return [None] * len(states)
    gradients = dstate if isinstance(dstate, tuple) else (dstate,)
    if len(gradients) != len(states):
        names = ", ".join(f"d{state}" for state in states)
        raise ValueError(f"`dstate` must be a tuple ({names}), a gradient of each state; got {len(gradients)} of them.")
    checked: list[np.ndarray | None] = []
    symbols, widths = (cell.h_symbol, "H"), (sizes.P, sizes.H)
    for state, gradient, symbol, width in zip(states, gradients, symbols, widths, strict=False):
        if gradient is None:
            checked.append(None)
            continue
        whole = check_broadcast(f"dstate.{state}", gradient, f"(N, {symbol})", (N, width))
        checked.append(whole.astype(dtype, copy=False))
    return checked


def check_max_norm(max_norm: Any) -> float:
    """Return a limit of a norm.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is negative or NaN.
    """
    if isinstance(max_norm, bool) or not isinstance(max_norm, int | float | np.integer | np.floating):
        raise TypeError(f"`max_norm` must be a number; got {type(max_norm).__name__}.")
    if not max_norm >= 0:
        raise ValueError(f"`max_norm` must be at least 0; got {max_norm}.")
    return float(max_norm)


def check_gradients(gradients: Any) -> list[np.ndarray]:
    """Return the arrays of a dict of gradients that are to be changed in place.

    Raises
    ------
    TypeError
        If it is no dict, or a value is no array of float32 or float64.
    ValueError
        If an array is read-only.
    """
    if not isinstance(gradients, Mapping):
        raise TypeError(f"`gradients` must be a dict of arrays by name; got {type(gradients).__name__}.")
    for name, array in gradients.items():
        if not isinstance(array, np.ndarray) or array.dtype not in (FLOAT32, FLOAT64):
            raise TypeError(f"`gradients[{name!r}]` must be an array of float32 or float64; got {_type_of(array)}.")
        if not array.flags.writeable:
            raise ValueError(f"`gradients[{name!r}]` must be writable, since it is scaled in place; take a copy of it.")
    return list(gradients.values())


def _type_of(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
