"""Checks of caches, whose arrays must fit one another as the forward function left them, and of their checkpoints."""

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

from rnnkernels._checks.arrays import FLOAT32, FLOAT64, is_in_layout, is_plain
from rnnkernels._checks.cells import Sizes
from rnnkernels._checks.sequences import are_spans_of
from rnnkernels._checks.settings import check_count
from rnnkernels.kernels.cell import Cell

CacheT = TypeVar("CacheT")


def check_cache(cache: Any, kind: type[CacheT], forward: str) -> CacheT:
    """Reject what is not a cache of the right forward function.

    Raises
    ------
    TypeError
        If it is None or of another type.
    """
    if isinstance(cache, kind):
        return cache
    if cache is None:
        raise TypeError(f"`cache` is None: call {forward} with keep_cache=True to be able to go backward.")
    raise TypeError(f"`cache` must be the {kind.__name__} that {forward} returned; got {type(cache).__name__}.")


def check_cell_cache(
    cell: Cell, cache: Any, kind: type[CacheT], forward: str, lanes: Mapping[Any, int]
) -> tuple[CacheT, Sizes]:
    """Reject a cache whose arrays do not fit each other; kernels would read beyond them.

    Returns it, and the sizes of its batch as the kernels see it.

    Raises
    ------
    TypeError, ValueError
        If it is of another type, or an array has another dtype, shape or layout than when it was made.
    """
    cache = check_cache(cache, kind, forward)
    x, h0, Wx, Wh, tape, track = cache
    dtype = x.dtype if type(x) is np.ndarray else None
    if is_plain(dtype, cache) and x.ndim in (2, 3) and h0.ndim == 2:
        N, D, H, P = x.shape[0], x.shape[-1], h0.shape[1], h0.shape[1]
        if cell.projected:
            projection = cache.projection
            H = len(projection) if is_plain(dtype, (projection,)) and projection.shape[1:] == (P,) else -1
        T = x.shape[1] if x.ndim == 3 else 1
        spans, S, steps, checkpoints = cache.spans, N, T, cache.checkpoints
        are_spans = spans is None or are_spans_of(spans, N, T)
        if spans is not None and are_spans:
            S, steps = spans.table.shape[1], spans.longest
        columns, units = len(cell.gates) * H, -(-H // lanes[dtype]) * lanes[dtype]
        tape_width = len(cell.tape) * units
        of_kept = (steps, S, tape_width), (steps + 1, S, units)
        if checkpoints:
            of_kept = (0, S, tape_width), (1, S, units)
        elif spans is not None and are_spans:
            of_kept = spans.kept_shapes(tape_width, units)
        if (
            are_spans
            and h0.shape[0] == N
            and Wx.shape == (D, columns)
            and Wh.shape == (P, columns)
            and (tape.shape, track.shape) == of_kept
            and (checkpoints is None or _are_checkpoints_of(checkpoints, cell, steps, S, (P, H), dtype))
            and (not cell.own or _is_bias(cache.own, columns, dtype))
        ):
            return cache, Sizes(S, steps, D, H, P * cell.projected)
    came = ", ".join(
        f"{name}: {_kind_of(array)}"
        for name, array in zip(("x", "h0", "Wx", "Wh", "tape", "track"), cache, strict=True)
    )
    raise ValueError(
        f"`cache` must be as {forward} left it, with arrays of one float dtype, C-contiguous, that fit one another; "
        f"got {came}. Call {forward} again; to keep a cache elsewhere, pickle it."
    )


def _is_bias(array: Any, columns: int, dtype: Any) -> bool:
    return is_in_layout(array) and array.shape == (columns,) and array.dtype == dtype


def _are_checkpoints_of(checkpoints: Any, cell: Cell, steps: int, S: int, widths: tuple[int, int], dtype: Any) -> bool:
    """Whether there are states of all sequences before each block, and the blocks make up all steps."""
    if not {"borders", "states", "biases"} <= set(getattr(checkpoints, "_fields", ())):
        return False
    borders, states, biases = checkpoints
    arrays = [*biases, *(state for block in states for state in block)]
    return (
        len(borders) == len(states) + 1
        and list(borders) == sorted(set(borders))
        and borders[0] == 0
        and borders[-1] == steps
        and is_plain(dtype, arrays)
        and all(len(block) == len(cell.states) for block in states)
        and all(state.shape == (S, width) for block in states for state, width in zip(block, widths, strict=False))
        and [bias.size for bias in biases]
        == [len(cell.gates) * widths[1]] * cell.bias_count + [widths[0] * widths[1]] * cell.projected
        and all(bias.ndim == 1 for bias in biases)
    )


def refuse_kept() -> NoReturn:
    """Say why a cache with checkpoints has no gates and states of each step.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(
        "this cache keeps states every so many steps only, and computes the rest again when it goes backward. Call the "
        "forward function without `checkpoint_every` and `memory_budget` to look at all of it."
    )


def check_checkpoints(checkpoint_every: Any, memory_budget: Any, keep_cache: bool) -> tuple[int | None, int | None]:
    """Check what asks for checkpoints.

    Raises
    ------
    TypeError, ValueError
        If it is no positive integer, or both are given, or nothing is to be kept.
    """
    if checkpoint_every is not None and memory_budget is not None:
        raise ValueError("`checkpoint_every` and `memory_budget` exclude one another: give one of them.")
    name = "memory_budget" if checkpoint_every is None else "checkpoint_every"
    if not keep_cache:
        raise ValueError(f"`{name}` is about the cache, and there is none with keep_cache=False: leave it out.")
    if checkpoint_every is None:
        return None, check_count(name, memory_budget)
    return check_count(name, checkpoint_every), None


def refuse_budget(memory_budget: int, least: int) -> NoReturn:
    """Say that a budget of memory is too small.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(
        f"`memory_budget` = {memory_budget} bytes is too little: the cache of these sizes takes {least} at least."
    )


def _kind_of(value: Any) -> str:
    return (
        f"an array of {value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    )


def check_cache_array(name: str, array: Any, axes: int | None, dtype: np.dtype | None = None) -> None:
    """Reject an array of a cache that is not as the forward function left it: kernels check nothing.

    Without a dtype it must be of float32 or float64. Axes that are None may be any.

    Raises
    ------
    ValueError
        If its dtype, layout or number of axes is another.
    """
    if type(array) is np.ndarray and (array.ndim == axes or axes is None):
        flags = array.flags
        fits = array.dtype in (FLOAT32, FLOAT64) if dtype is None else array.dtype == dtype
        if fits and flags.c_contiguous and flags.aligned:
            return
    got = f"{array.dtype}, {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    wanted = "" if axes is None else f" with {axes} axes"
    raise ValueError(
        f"`cache.{name}` must be a C-contiguous array of {dtype or 'float32 or float64'}{wanted}; got {got}. "
        "Leave a cache and its arrays as the forward function made them until the backward call."
    )


def check_single_step(cache: Any, T: int, forward: str) -> None:
    """Reject the cache of sequences of T steps, or of some lengths, where that of a step is wanted.

    Raises
    ------
    ValueError
        If it is not of one step.
    """
    if T != 1 or cache.spans is not None or cache.checkpoints is not None:
        raise ValueError(
            f"`cache` must be that of {forward}, of a single step; got that of a sequence, of T = {T} steps."
            " Go back through a sequence with the backward function of its forward function."
        )
