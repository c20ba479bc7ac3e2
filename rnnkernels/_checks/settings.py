"""Checks of what is no array: numbers, words and dtypes, and what is installed and switched on."""

import importlib
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from rnnkernels._checks.arrays import FLOAT32, FLOAT64
from rnnkernels.kernels import jit


def check_float_dtype(name: str, value: Any) -> np.dtype:
    """Return float32 or float64 as a dtype.

    Raises
    ------
    TypeError
        If it is another one.
    """
    dtype = np.dtype(value)
    if dtype not in (FLOAT32, FLOAT64):
        raise TypeError(f"`{name}` must be float32 or float64; got {dtype}.")
    return dtype


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Reject what is not one of some words.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return an integer of at least `least`.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is less.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be an integer; got {type(value).__name__}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {value}.")
    return int(value)


def check_num_threads(num_threads: Any) -> int:
    """Return a number of threads; raises as `check_count`."""
    return check_count("num_threads", num_threads)


def refuse_without_compiler() -> NoReturn:
    """Say why nothing can be computed where Numba's compiler is switched off.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError(
        "the kernels of rnnkernels are compiled by Numba, which NUMBA_DISABLE_JIT=1 forbids. Unset it before the first"
        " import of numba, or call the same functions in rnnkernels.reference, which are plain NumPy."
    )


def check_absent(name: str, value: Any, reason: str) -> None:
    """Reject an argument that means nothing here.

    Raises
    ------
    TypeError
        If it is not None.
    """
    if value is not None:
        raise TypeError(f"`{name}` must be left out: {reason}.")


def import_extra(module: str, extra: str) -> Any:
    """Import a module that not every installation has.

    Raises
    ------
    ModuleNotFoundError
        If it is not there; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'this needs {error.name}, which is not installed: python -m pip install "rnnkernels[{extra}]"',
            name=error.name,
        ) from None


jit.refuse = refuse_without_compiler
