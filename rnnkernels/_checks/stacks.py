"""Checks of the states, gradients and caches of stacks, which have an axis for layers and directions in front."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnkernels._checks.arrays import check_given_float, check_shape
from rnnkernels._checks.caches import CacheT, check_cache, check_cell_cache
from rnnkernels._checks.cells import Sizes
from rnnkernels._checks.settings import check_count
from rnnkernels.kernels.cell import Cell


def _widths(sizes: Sizes) -> tuple[tuple[str, int], tuple[str, int]]:
    """Columns of hidden and cell states, in symbols and in numbers."""
    return ("P" if sizes.projected else "H", sizes.P), ("H", sizes.H)


def _broadcast_whole(name: str, value: Any, shape: tuple[int, int, int], symbol: str) -> np.ndarray:
    """A state of a stack, or its gradient, for all layers and directions; raises TypeError, ValueError."""
    array = check_given_float(name, value)
    if array.ndim <= 3 and all(n in (1, m) for n, m in zip(array.shape[::-1], shape[::-1], strict=False)):
        return np.broadcast_to(array, shape)
    check_shape(
        name,
        array,
        f"(K, N, {symbol})",
        shape,
        "the layers and `x`",
        " K counts layers and directions; it may also broadcast.",
    )
    return array


def check_stack_states(
    states: dict[str, Any], count: int, sizes: Sizes
) -> list[tuple[tuple[int, ...] | None, np.ndarray | None]]:
    """Return shapes of the first states of a stack of so many parts, and the states of shape (K, N, H); None is zero.

    Raises
    ------
    TypeError, ValueError
        If a dtype is none, or a state does not broadcast to the shape.
    """
    return [
        (None, None)
        if state is None
        else (np.shape(state), _broadcast_whole(name, state, (count, sizes.N, width), symbol))
        for (name, state), (symbol, width) in zip(states.items(), _widths(sizes), strict=False)
    ]


def check_stack_dstate(states: tuple[str, ...], dstate: Any, count: int, sizes: Sizes) -> list[np.ndarray | None]:
    """Check the gradient of the last state of a stack of so many parts, as `check_dstate` does that of a layer."""
    gradients = check_state_tuple("dstate", "d", states, dstate)
    return [
        None if gradient is None else _broadcast_whole(f"dstate.{state}", gradient, (count, sizes.N, width), symbol)
        for state, gradient, (symbol, width) in zip(states, gradients, _widths(sizes), strict=False)
    ]


def check_state_tuple(name: str, prefix: str, states: tuple[str, ...], value: Any) -> tuple[Any, ...]:
    """Return a state as a tuple; None is zero, a list does where there are several, and else it is the only one.

    Raises
    ------
    ValueError
        If there are more or fewer than the cell has.
    """
    if value is None:
        return (None,) * len(states)
    is_several = isinstance(value, tuple) or (isinstance(value, list) and len(states) > 1)
    parts = tuple(value) if is_several else (value,)
    if len(parts) != len(states):
        names = ", ".join(prefix + state for state in states)
        raise ValueError(f"`{name}` must be a tuple ({names}); got {len(parts)} of them.")
    return parts


def check_step_state(states: tuple[str, ...], state: Any, count: int) -> list[np.ndarray | None]:
    """Check the state of a stack before a step: arrays with an axis for its layers in front.

    Raises
    ------
    TypeError, ValueError
        If there are more or fewer than the cell has, or a dtype or a shape does not fit.
    """
    checked: list[np.ndarray | None] = []
    for name, value in zip(states, check_state_tuple("state", "", states, state), strict=True):
        array = None if value is None else check_given_float(f"state.{name}", value)
        if array is not None and array.ndim == 0:
            array = np.broadcast_to(array, (count,))
        if array is not None and (
            array.ndim not in (1, 2, 3) or array.shape[0] != count or array.ndim == 1 < array.size
        ):
            check_shape(f"state.{name}", array, "(num_layers, N, H)", (count, *array.shape[1:]), "the layers")
        checked.append(array)
    return checked


def check_stream_states(
    states: dict[str, Any], batch_size: Any, count: int, sizes: Sizes
) -> tuple[list[tuple[str, np.ndarray | None]], int]:
    """Check the states of a stream of a stack, and find out how many sequences it has; None stays None.

    Of the `sizes` only the columns of states count.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit.
    """
    given = {name: None if state is None else check_given_float(name, state) for name, state in states.items()}
    if batch_size is not None:
        N = check_count("batch_size", batch_size, 0)
    else:  # one row broadcasts to those of the other state
        rows = [state.shape[-2] for state in given.values() if state is not None and state.ndim >= 2]
        N = next((count for count in rows if count != 1), 1)
    checked = [
        (name, None if state is None else _broadcast_whole(name, state, (count, N, width), symbol))
        for (name, state), (symbol, width) in zip(given.items(), _widths(sizes), strict=False)
    ]
    return checked, N


def check_stack_cache(
    cell: Cell, cache: Any, kind: type[CacheT], part: type[Any], layers: int, directions: int, lanes: Mapping[Any, int]
) -> tuple[CacheT, Sizes]:
    """Reject a cache that no stack like this one has left. Returns it and the sizes of its first layer.

    Raises
    ------
    TypeError, ValueError
        If it is of another type, of other layers, or its arrays do not fit one another.
    """
    whole: Any = check_cache(cache, kind, "forward")
    parts, masks = whole.parts, whole.masks
    if not (
        isinstance(parts, tuple)
        and isinstance(masks, tuple)
        and all(isinstance(each, part) for each in parts)
        and (len(parts), whole.directions, len(masks)) == (layers * directions, directions, layers - 1)
    ):
        raise ValueError(
            f"`cache` must be as `forward` of this layer leaves it, of num_layers = {layers} in {directions} "
            f"direction(s), with a {part.__name__} for each; it is of other layers, or was changed."
        )
    for each in parts:
        check_cell_cache(cell, each, part, "forward", lanes)
    (*batch, D), P, columns, dtype = parts[0].x.shape, parts[0].h0.shape[1], parts[0].Wx.shape[1], parts[0].x.dtype
    N, T = batch if len(batch) == 2 else (*batch, 1)
    are_alike = all(
        each.x.shape == (*batch, D if k < directions else directions * P)
        and (each.h0.shape[1], each.Wx.shape[1], each.x.dtype) == (P, columns, dtype)
        for k, each in enumerate(parts)
    )
    fit = all(
        mask is None
        or (
            type(mask) is np.ndarray
            and mask.dtype == np.bool_
            and mask.shape in ((N, n, directions * P) for n in (1, T))
        )
        for mask in masks
    )
    if not (are_alike and fit):
        raise ValueError(
            "`cache` must be as `forward` left it, with parts and masks that fit one another. Call `forward` again; "
            "to keep a cache elsewhere, pickle it."
        )
    return whole, Sizes(N, T, D, columns // len(cell.gates), P * cell.projected)
