"""What the functions of all recurrent cells do: check, run, and return."""

from typing import Any, NamedTuple

import numpy as np

from rnnkernels import _sequence
from rnnkernels._caches import RecurrentCache
from rnnkernels._checks import (
    check_arguments,
    check_cell_cache,
    check_dstate,
    check_gradient,
    check_single_step,
)
from rnnkernels._results import ForwardResult, SequenceGradients, StepGradients
from rnnkernels._sequence import Kept
from rnnkernels.kernels.cell import Cell
from rnnkernels.kernels.simd import LANES


class Family(NamedTuple):
    """A cell and the classes of its public functions."""

    cell: Cell
    cache: type[Any]
    state: type[Any]


def forward(
    family: Family,
    x: Any,
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: dict[str, Any],
    keep_cache: bool,
    num_threads: int | None,
    packed: Any = None,
) -> ForwardResult[Any, Any]:
    """Run a forward pass over sequences; `states` are those before the first step, None for zero."""
    cell = family.cell
    names = STATE_NAMES[cell.states]
    x, states, Wx, Wh, biases_given, sizes, shapes = check_arguments(cell, x, names, states, Wx, Wh, biases)
    h, kept = _sequence.run_forward(
        cell, x, states[0], states[-1], (Wx, Wh), biases_given, sizes, keep_cache, num_threads, packed
    )
    cache = None
    if keep_cache:
        cache = family.cache(x, states[0], Wx, Wh, *kept)
        if shapes is not None:
            cache.shapes = shapes
    result: ForwardResult[Any, Any] = ForwardResult((h, cache))
    result.make_state = lambda: _last_state(family, h, states[0], kept.track)
    return result


def _last_state(family: Family, h: np.ndarray, h0: np.ndarray, track: np.ndarray) -> Any:
    last = h[:, -1].copy() if h.shape[1] else h0.copy()
    if len(family.cell.states) == 1:
        return family.state(last)
    return family.state(last, track[-1, :, : h.shape[2]].copy())


def backward(
    family: Family, dh: Any, cache: Any, dstate: Any, num_threads: int | None, packed: Any = None
) -> SequenceGradients:
    """Propagate gradients back through sequences."""
    cell = family.cell
    cache = check_cell_cache(cell, cache, family.cache, f"{cell.name}_forward", LANES)
    (N, T, _), H = cache.x.shape, cache.h0.shape[1]
    dtype = cache.x.dtype
    if dh is not None:
        dh = check_gradient("dh", dh, "(N, T, H)", (N, T, H), dtype)
        dtype = dh.dtype
    last = check_dstate(cell.states, dstate, (N, H), dtype)
    cache = cache.in_dtype(dtype)
    gradients = _sequence.run_backward(
        cell, cache.x, cache.h0, cache[2:4], Kept(*cache[4:]), dh, last, num_threads, packed
    )
    shapes = cache.shapes or (None, *[None] * len(cell.states))
    result = SequenceGradients(
        (gradients.dx, _sum_to(gradients.dh0, shapes[1]), gradients.dWx, gradients.dWh, gradients.dbs[0])
    )
    if len(cell.states) > 1:
        result.dc0 = _sum_to(gradients.dtrack0, shapes[2])
    if len(cell.biases) > 1:
        result.dbh = gradients.dbs[1]
    return result


def step_forward(
    family: Family,
    x: Any,
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: dict[str, Any],
    keep_cache: bool,
    num_threads: int | None,
) -> tuple[Any, ...]:
    """Advance by one step; returns the next states and the cache."""
    cell = family.cell
    names = STEP_NAMES[cell.states]
    x, states, Wx, Wh, biases_given, sizes, shapes = check_arguments(cell, x, names, states, Wx, Wh, biases, True)
    h, kept = _sequence.run_forward(
        cell, x, states[0], states[-1], (Wx, Wh), biases_given, sizes, keep_cache, num_threads
    )
    cache = family.cache(x, states[0], Wx, Wh, *kept) if keep_cache else None
    following = [h.reshape(sizes.N, sizes.H)]
    if len(cell.states) > 1:
        following.append(kept.track[-1, :, : sizes.H].copy())
    if shapes is not None:
        if cache is not None:
            cache.shapes = shapes
        if all([len(shape) < 2 for shape in shapes]):
            following = [state[0] for state in following]
    return *following, cache


def step_backward(
    family: Family, names: tuple[str, ...], gradients: tuple[Any, ...], cache: Any, num_threads: int | None
) -> tuple[Any, ...]:
    """Propagate gradients of the next states back through one step; returns dx, those of the states, dWx, dWh, dbs."""
    cell = family.cell
    forward_name = f"{cell.name}_step_forward"
    cache = check_cell_cache(cell, cache, family.cache, forward_name, LANES)
    check_single_step(cache.x, forward_name)
    shape, dtype = cache.h0.shape, cache.x.dtype
    is_vector = cache.shapes is not None and all([len(given) < 2 for given in cache.shapes])
    checked = []
    for name, gradient in zip(names, gradients, strict=True):
        if is_vector and gradient is not None and np.ndim(gradient) == 1:
            gradient = np.asarray(gradient)[None]
        checked.append(check_gradient(name, gradient, "(N, H)", shape, dtype))
        dtype = checked[-1].dtype
    checked = [gradient.astype(dtype, copy=False) for gradient in checked]
    cache = cache.in_dtype(dtype)
    dx, dh0, dtrack0, dWx, dWh, dbs = _sequence.run_backward(
        cell,
        cache.x,
        cache.h0,
        cache[2:4],
        Kept(*cache[4:]),
        checked[0][:, None],
        [None, *checked[1:]],
        num_threads,
    )
    dx = dx.reshape(shape[0], dx.shape[2])
    states = [dh0] if len(cell.states) == 1 else [dh0, dtrack0.copy()]
    if cache.shapes is not None:
        dx, *states = (_sum_to(g, given) for g, given in zip((dx, *states), cache.shapes, strict=True))
    return dx, *states, dWx, dWh, dbs


def step_gradients(dx: np.ndarray, dprev_h: np.ndarray, dWx: Any, dWh: Any, dbs: Any) -> StepGradients:
    """Five gradients as a tuple, and that of the second bias."""
    result = StepGradients((dx, dprev_h, dWx, dWh, dbs[0]))
    result.dbh = dbs[1]
    return result


def _sum_to(gradient: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """The gradient of what was broadcast from `shape` to that of the gradient (N, H); None was not."""
    if shape is None or gradient.shape == shape:
        return gradient
    if shape == ():
        return gradient.sum()
    return gradient.sum(axis=0).reshape(shape)


STATE_NAMES = {("h",): ("h0",), ("h", "c"): ("h0", "c0")}
STEP_NAMES = {("h",): ("prev_h",), ("h", "c"): ("prev_h", "prev_c")}
