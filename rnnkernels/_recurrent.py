"""What the functions of all recurrent cells do: check, run, and return.

While somebody profiles they record themselves, as a call of the public function, or of the method of a layer if that is
the `caller`; it is None in a call that is recorded already. A decorator would take 0.3 us of calls that take 5.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy import ndarray

from rnnkernels import _recorder as recorder
from rnnkernels import _sequence
from rnnkernels._checks.arrays import FLOAT32, FLOAT64, IN_LAYOUT
from rnnkernels._checks.caches import check_cell_cache, check_checkpoints, check_single_step, refuse_budget
from rnnkernels._checks.cells import Sizes, check_arguments, check_bound
from rnnkernels._checks.gradients import check_broadcast, check_dstate, check_given_gradient
from rnnkernels._checks.sequences import are_spans_of
from rnnkernels._checks.settings import check_choice, check_num_threads
from rnnkernels._memory import borrow, empty, give_back, zeros
from rnnkernels._pipeline import Pass
from rnnkernels._results import ForwardResult, SequenceGradients, StepGradients
from rnnkernels._sequence import Kept, SmallBackward, SmallCall
from rnnkernels._spans import Spans, find_spans, whole_spans
from rnnkernels.kernels.cell import Cell
from rnnkernels.kernels.simd import LANES

R = TypeVar("R")


class Family(NamedTuple):
    """A cell and the classes of its public functions."""

    cell: Cell
    cache: type[Any]
    state: type[Any]
    keeps_more: bool
    """Whether a cache keeps something besides its fields: a bias for the row functions, a projection, or a clip."""
    small: dict[Any, SmallCall]
    small_backward: dict[Any, SmallBackward]
    """Small calls by what they depend on."""
    plain: Any = None
    """The same without a clip, if there is one."""


MOST_SMALL_CALLS = 1024
MOST_CLIPPED = 64
MOST_OF_SPANS = 64
"""Small calls that are kept for spans of a batch, for each that is kept for a whole one."""


def family(cell: Cell, cache: type[Any], state: type[Any]) -> Family:
    """A family that has seen no call yet."""
    return Family(cell, cache, state, cell.own + cell.projected > 0 or cell.clip < math.inf, {}, {})


_clipped: dict[tuple[type[Any], float], Family] = {}


def clipped(plain: Family, clip: Any) -> Family:
    """A family like this one, with a bound of what goes into activations of gates; the plain one if there is none."""
    plain = plain.plain or plain
    if clip is None or (bound := check_bound("clip", clip, "what goes into an activation")) == math.inf:
        return plain
    key = plain.cache, bound
    found = _clipped.get(key)
    if found is None:
        cell = plain.cell._replace(clip=bound, options=(*plain.cell.options, ("clip", bound)))
        found = family(cell, plain.cache, plain.state)._replace(plain=plain)
        _keep(_clipped, key, found, MOST_CLIPPED)
    return found


def _fit(arrays: tuple[Any, ...], shapes: tuple[tuple[int, ...], ...], dtype: np.dtype) -> bool:
    """Whether all are plain arrays of a dtype and of these shapes, in the layout of the kernels; as many as shapes."""
    for array, shape in zip(arrays, shapes):  # noqa: B905 - an argument more costs 0.05 us
        if (
            type(array) is not ndarray
            or array.shape != shape
            or (array.dtype is not dtype and array.dtype != dtype)  # out of a pickle it is another object
            or not (array.flags.carray or array.flags.num & IN_LAYOUT == IN_LAYOUT)  # the first one is faster
        ):
            return False
    return True


def _remember(
    family: Family, sizes: Sizes, keeps: bool, only_last: bool | None, arguments: tuple[np.ndarray, ...]
) -> None:
    """Keep what a call like this needs, if it is small."""
    dtype, no_h = arguments[0].dtype, only_last is not False
    call = _sequence.small_forward(family.cell, sizes, dtype, keeps, no_h, *arguments)
    if call is not None:
        Wx = arguments[1 + len(family.cell.states)]
        _keep(family.small, (dtype, keeps, only_last, arguments[0].shape, Wx.shape), call)


def _keep(calls: dict[Any, Any], key: Any, call: Any, most: int = MOST_SMALL_CALLS) -> None:
    """Keep a small call; spans can ask for ever new ones, so those that there are make room."""
    if len(calls) >= most:
        calls.clear()
    calls[key] = call


class Options(NamedTuple):
    """What asks for more than a plain pass."""

    spans: tuple[Any, ...] | None
    """Lengths, reverse and resets, if one of them is given."""
    little: tuple[int | None, int | None] | None
    """Steps between checkpoints and budget of memory, if one of them is given."""


def _run(
    family: Family,
    names: tuple[str, ...],
    x: Any,
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: tuple[Any, ...],
    keep_cache: bool,
    num_threads: int | None,
    packed: Any,
    is_step: bool,
    only_last: bool = True,
    options: Options | None = None,
    later: list[Pass] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any, Any, Spans | None]:
    """Check and run.

    Returns
    -------
    h : ndarray of shape (rows of x, H)
        Or (0, H) if `only_last`; (.., P) where it is projected.
    last : ndarray of shape (N, H)
        Hidden states after the last step; of spans if there are any.
    track : ndarray
        As the kernel leaves it.
    shapes : tuple or None
        Of x and the states as they were given, where they were broadcast.
    cache : object or None
    spans : Spans or None
    """
    cell = family.cell
    little = None if options is None else options.little
    if not is_step and num_threads is packed is little is None and not recorder.listeners:
        asked = None if options is None else options.spans
        small = _run_small(family, x, states, Wx, Wh, biases, keep_cache, only_last, asked)
        if small is not None:
            h, last, track, cache, spans = small
            return h, last, track, None, cache, spans
    if num_threads is not None:
        check_num_threads(num_threads)  # plans are remembered by it
    named = dict(zip(cell.biases, biases, strict=True))
    checked = check_arguments(cell, x, names, states, Wx, Wh, named, is_step)
    arguments = checked.x, *checked.states, checked.Wx, checked.Wh, *checked.biases
    sizes, spans = checked.sizes, None
    h0, track0 = checked.states[0], checked.states[-1]
    if options is not None and options.spans is not None:
        spans = find_spans(sizes.N, sizes.T, *options.spans)
        if spans is not None:
            sizes = sizes._replace(N=spans.table.shape[1], T=spans.longest)
            h0, track0 = _initial(spans, checked.states)
    weights, steps, checkpoints = (checked.Wx, checked.Wh), sizes.T, None
    if little is not None and sizes.N * sizes.T * sizes.H > 0:
        steps = _steps_between(cell, sizes, checked.x.dtype, spans, *little)
    if steps < sizes.T:
        whole = whole_spans(sizes.N, sizes.T) if spans is None else spans
        states_before = (h0.copy(), track0.copy())[: len(cell.states)]
        h, last, kept, checkpoints = _sequence.run_forward_with_checkpoints(
            cell, checked.x, states_before, weights, checked.biases, sizes, only_last, steps, num_threads, packed, whole
        )
    else:
        h, last, kept = _sequence.run_forward(
            cell,
            checked.x,
            h0,
            track0,
            weights,
            checked.biases,
            sizes,
            keep_cache,
            only_last,
            num_threads,
            packed,
            spans,
            later=later,
        )
    if num_threads is packed is little is None:
        _remember(family, checked.sizes, keep_cache, None if is_step else only_last, arguments)
    cache = None
    if keep_cache:
        cache = family.cache(checked.x, checked.states[0], checked.Wx, checked.Wh, *kept)
        if checked.shapes is not None:
            cache.shapes = checked.shapes
        if spans is not None:
            cache.spans = spans
        if checkpoints is not None:
            cache.checkpoints = checkpoints
        if cell.own:
            cache.own = checked.biases[cell.bias_count - 1]
        if cell.projected:
            cache.projection = checked.biases[-1].reshape(sizes.H, sizes.P)
        if cell.clip < math.inf:
            cache.clip = cell.clip
    return h, last, kept.track, checked.shapes, cache, spans


def _steps_between(
    cell: Cell,
    sizes: Sizes,
    dtype: np.dtype,
    spans: Spans | None,
    checkpoint_every: int | None,
    memory_budget: int | None,
) -> int:
    """Steps between two checkpoints."""
    if memory_budget is None:
        return checkpoint_every or sizes.T
    steps, least = _sequence.steps_for(cell, sizes, dtype, spans, memory_budget)
    if steps == 0:
        refuse_budget(memory_budget, least)
    return steps


_new = tuple.__new__


def _run_small(
    family: Family,
    x: Any,
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: tuple[Any, ...],
    keep_cache: bool,
    only_last: bool | None,
    asked: tuple[Any, ...] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any, Spans | None] | None:
    """Run a small call like one that was checked before; None if there was none, or more is to be checked.

    For a single step `only_last` is None. Returns h, the last hidden states, the track, the cache, and the spans.
    """
    if type(x) is not ndarray or type(Wx) is not ndarray:
        return None
    dtype = x.dtype
    call = family.small.get((dtype, keep_cache, only_last, x.shape, Wx.shape))
    if call is None:
        return None
    shapes, spans, allocate = call.shapes, None, empty
    # A step of a sequence, as x[:, t], is not contiguous, nor is the transpose of a weight; a state may be of the other
    # float dtype, or None.
    if states[-1] is None or states[0] is None:
        states = tuple([zero if state is None else state for state, zero in zip(states, call.no_states, strict=True)])
    if biases[-1] is None and len(biases) > 1:
        biases = *biases[:-1], call.no_bias
    if not _fit((x, *states, Wx, Wh, *biases), shapes, dtype):
        x, Wx, Wh, *others = [_in_dtype(array) for array in (x, Wx, Wh, *biases)]
        states, biases = tuple([_in_dtype(state, dtype) for state in states]), tuple(others)
        if not _fit((x, *states, Wx, Wh, *biases), shapes, dtype):
            return None
    h0, track0 = states[0], states[-1]
    if asked is not None:
        spans = find_spans(*x.shape[:2], *asked)
        if spans is not None:
            call = _small_spans(family, dtype, call, spans)
            if call is None:
                return None
            h0, track0 = _initial(spans, states)
            if not spans.is_whole:
                allocate = zeros
    code, _, rows, of_h, of_last, of_tape, of_track, no_h, no_tape, _, _, places, scratch, division, _ = call
    h = allocate(of_h, dtype) if no_h is None else no_h
    last = empty(of_last, dtype)
    if spans is not None:
        places = spans.places
        if keep_cache:
            of_tape, of_track = spans.kept_shapes(of_tape[2], of_track[2])
        if spans.shortest == 0:
            last[...] = h0  # no step overwrites the state of a sequence without any
    track = empty(of_track, dtype)
    tape = empty(of_tape, dtype) if no_tape is None else no_tape
    work = borrow(scratch, dtype)
    code(
        x if rows is None else x.reshape(rows), h0, track0, Wx, Wh, biases, h, last, tape, track, places, work,
        *division,
    )  # fmt: skip
    give_back(work)
    cache = None
    if keep_cache:
        cache = _new(family.cache, (x, states[0], Wx, Wh, tape, track))
        if spans is not None:
            cache.spans = spans
        if family.keeps_more:
            cell = family.cell
            if cell.own:
                cache.own = biases[cell.bias_count - 1]
            if cell.projected:
                cache.projection = biases[-1].reshape(-1, Wh.shape[0])
            if cell.clip < math.inf:
                cache.clip = cell.clip
    return h, last, track, cache, spans


def _small_spans(family: Family, dtype: np.dtype, call: SmallCall, spans: Spans) -> SmallCall | None:
    """A small call for the spans of a batch, given that for the whole batch; None if no span has a step."""
    size = spans.table.shape[1], spans.longest, spans.onward
    found = call.of_spans.get(size)
    if found is None and spans.longest > 0:
        found = _sequence.small_spans(family.cell, call, dtype, *size)
        _keep(call.of_spans, size, found, MOST_OF_SPANS)
    return found


def _initial(spans: Spans, states: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The hidden and the tracked state before each span."""
    if spans.in_order:
        return states[0], states[-1]
    h0 = spans.initial(states[0])
    return h0, h0 if len(states) == 1 else spans.initial(states[1])


def _in_dtype(array: Any, dtype: np.dtype | None = None) -> Any:
    """An array of a float dtype in this one, or its own, and contiguous; whatever else there is as it is."""
    if type(array) is ndarray and array.ndim > 0 and array.dtype in (FLOAT32, FLOAT64):
        return np.ascontiguousarray(array, dtype)
    return array


def _recorded(cell: Cell, caller: str, name: str, given: dict[str, Any], function: Callable[[], R]) -> R:
    """Call a function that is to be recorded under a name like `lstm_step_forward`, or `LSTM.step` of a layer."""
    of_layer = f"{cell.name.upper()}.{name.removesuffix('_forward') if 'step' in name else name}"
    name = of_layer if caller == "layer" else f"{cell.name}_{name}"
    return recorder.recorded(name, function, lambda: given)


def _named(cell: Cell, x: Any, states: tuple[Any, ...], Wx: Any, Wh: Any, biases: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments by name."""
    return {"x": x, **dict(zip((*cell.states, "Wx", "Wh", *cell.biases), (*states, Wx, Wh, *biases), strict=True))}


def forward(
    family: Family,
    x: Any,
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: tuple[Any, ...],
    keep_cache: bool,
    num_threads: int | None,
    packed: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    resets: Any = None,
    outputs: str = "all",
    checkpoint_every: int | None = None,
    memory_budget: int | None = None,
    later: list[Pass] | None = None,
    caller: str | None = "function",
) -> ForwardResult[Any, Any]:
    """Run a forward pass over sequences; `states` are those before the first step, None for zero.

    Given a list `later` and `num_threads` 1, a plain pass is put off: it goes there, and the result is filled when it
    runs, but for the h of the last step alone.
    """
    if recorder.listeners and caller:
        again = functools.partial(
            forward, family, x, states, Wx, Wh, biases, keep_cache, num_threads, packed, lengths, reverse, resets,
            outputs, checkpoint_every, memory_budget, later, None,
        )  # fmt: skip
        return _recorded(family.cell, caller, "forward", _named(family.cell, x, states, Wx, Wh, biases), again)
    options = None
    if lengths is not None or reverse or resets is not None:
        options = Options((lengths, reverse, resets), None)
    only_last = outputs != "all"
    if only_last is not False:  # an array has no truth value
        check_choice("outputs", outputs, ("all", "last"))
    if checkpoint_every is not None or memory_budget is not None:
        little = check_checkpoints(checkpoint_every, memory_budget, keep_cache)
        options = Options(None if options is None else options.spans, little)
    names = STATE_NAMES[family.cell.states]
    h, last, track, _, cache, spans = _run(
        family, names, x, states, Wx, Wh, biases, keep_cache, num_threads, packed, False, only_last, options, later
    )
    if spans is not None:
        last = spans.final(last)
    N, P = last.shape
    h = last.copy() if only_last else h.reshape(N, (x if type(x) is ndarray else np.asarray(x)).shape[1], P)
    result: ForwardResult[Any, Any] = ForwardResult((h, cache))
    H = np.shape(Wx)[1] // len(family.cell.gates) if family.cell.projected else P
    result.make_state = lambda: _last_state(family, last, track, H, spans)
    return result


def _last_state(family: Family, last: np.ndarray, track: np.ndarray, H: int, spans: Spans | None) -> Any:
    if len(family.cell.states) == 1:
        return family.state(last)
    if spans is None:
        return family.state(last, track[-1, :, :H].copy())
    return family.state(last, spans.final_of_steps(track, H))


def _run_small_backward(family: Family, cache: Any, dh: Any, others: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Run a small backward pass like one that was checked before; None if there was none, or more is to be checked.

    `dh` has the shape of h, or of its last step, `others` are the gradients of the other states after the last step.
    Returns dx, dh0, the gradient of the track as the kernel leaves it, dWx, dWh and those of the biases.
    """
    if type(cache) is not family.cache or type(dh) is not np.ndarray or recorder.listeners:
        return None
    x, h0, Wx, Wh, tape, track = cache
    dtype, spans, allocate = dh.dtype, cache.spans, empty
    call = family.small_backward.get(_backward_key(x, Wx, spans, dh))
    if call is None or len(others) + 7 != len(call.shapes):
        return None
    code, shapes, of_dx, of_dh0, of_dWx, of_dWh, of_dbs, nothing, places, scratch, division = call
    if spans is not None:
        if not are_spans_of(spans, x.shape[0], x.shape[1]):
            return None
        shapes = *shapes[:4], *spans.kept_shapes(shapes[4][2], shapes[5][2]), *shapes[6:]
    if not _fit((*cache, dh, *others), shapes, dtype):
        dh = np.ascontiguousarray(dh)
        if not _fit((*cache, dh, *others), shapes, dtype):
            return None
    if spans is not None:
        h0, places = spans.initial(h0), spans.places
        if not spans.is_whole:
            allocate = zeros
    dx, dh0 = allocate(of_dx, dtype), empty(of_dh0, dtype)
    dWx, dWh = empty(of_dWx, dtype), empty(of_dWh, dtype)
    dbs = tuple([empty(shape, dtype) for shape in of_dbs])
    further: Any = dbs
    if family.keeps_more:
        further = _with_kept(family.cell, cache, dbs, of_dWh[0])
        if further is None:
            return None
    dtrack = dlast = nothing
    if others or x.ndim == 3:
        if len(family.cell.states) > 1:
            dtrack = np.zeros((len(h0), track.shape[2]), dtype)
            for other in others:
                dtrack[:, : other.shape[1]] = other
        if x.ndim == 3:
            x = x.reshape(of_dx)
            if dh.ndim == 3:
                dh = dh.reshape(-1, h0.shape[1])
            else:
                dh, dlast = nothing, dh if spans is None else spans.final_gradient(dh)
    work = borrow(scratch, dtype)
    code(x, h0, Wx, Wh, tape, track, dh, dlast, dtrack, dx, dh0, dWx, dWh, further, places, work, *division)
    give_back(work)
    return dx, dh0, dtrack, dWx, dWh, dbs


def _with_kept(cell: Cell, cache: Any, dbs: tuple[np.ndarray, ...], outputs: int) -> tuple[np.ndarray, ...] | None:
    """Gradients of biases for a kernel, with what a cache keeps besides its fields; None if that does not fit.

    The bias that is for the row functions is in the place of its gradient, a projection comes last.
    """
    dtype = dbs[0].dtype
    if cell.own:
        if not _fit((cache.own,), (dbs[0].shape,), dtype):
            return None
        dbs[cell.bias_count - 1][...] = cache.own
    if cell.projected:
        if not _fit((cache.projection,), ((dbs[-1].size // outputs, outputs),), dtype):
            return None
        dbs = *dbs, cache.projection.reshape(-1)
    return dbs


def _backward_key(x: Any, Wx: Any, spans: Any, dh: np.ndarray) -> tuple[Any, ...]:
    """On what a small backward pass depends, beside shapes that follow; whatever a changed cache holds has a key."""
    shape, of_Wx = x.shape if type(x) is ndarray else None, Wx.shape if type(Wx) is ndarray else None
    if spans is None:
        return dh.dtype, dh.ndim, shape, of_Wx
    if type(spans) is not Spans:
        return ()
    return dh.dtype, dh.ndim, shape, of_Wx, spans.onward, spans.longest, np.shape(spans.table)


def _remember_backward(
    family: Family, sizes: Sizes, cache: Any, dh: np.ndarray, others: tuple[np.ndarray, ...]
) -> None:
    """Keep what a backward pass like this needs, if it is small."""
    call = _sequence.small_backward(family.cell, sizes, dh.dtype, cache.spans, *cache, dh, *others)
    if call is not None:
        _keep(family.small_backward, _backward_key(cache.x, cache.Wx, cache.spans, dh), call)


def backward(
    family: Family,
    dh: Any,
    cache: Any,
    dstate: Any,
    num_threads: int | None,
    packed: Any = None,
    later: list[Pass] | None = None,
    caller: str | None = "function",
) -> SequenceGradients:
    """Propagate gradients back through sequences; with `later` as in `forward`."""
    family = clipped(family, getattr(cache, "clip", None))  # a cache of a layer and of its function can be exchanged
    cell = family.cell
    if recorder.listeners and caller:
        again = functools.partial(backward, family, dh, cache, dstate, num_threads, packed, later, None)
        return _recorded(cell, caller, "backward", {"dh": dh, "cache": cache}, again)
    is_plain = (
        type(cache) is family.cache
        and num_threads is packed is dstate is None
        and cache.shapes is cache.checkpoints is None
    )
    if is_plain:
        small = _run_small_backward(family, cache, dh, ())
        if small is not None and cache.x.ndim == 3:
            dx, dh0, dtrack0, dWx, dWh, dbs = small
            spans, H = cache.spans, dWx.shape[1] // len(cell.gates)
            first = [dh0, dtrack0]
            if spans is not None:
                widths = (dh0.shape[1], H)[: len(cell.states)]
                first = [spans.initial_gradient(*pair) for pair in zip(first, widths, strict=False)]
            elif len(cell.states) > 1:
                first[1] = dtrack0[:, :H]
            return _gradients(cell, dx.reshape(cache.x.shape), first, dWx, dWh, dbs)
    given = cache
    if num_threads is not None:
        check_num_threads(num_threads)
    cache, sizes = check_cell_cache(cell, cache, family.cache, f"{cell.name}_forward", LANES)
    shape, H, P = cache.x.shape, sizes.H, sizes.P
    (N, T), dtype = shape[:2] if len(shape) == 3 else (shape[0], 1), cache.x.dtype
    dlast = None
    if dh is not None:
        if np.ndim(dh) == 2:  # of the last hidden state alone
            dlast, dh = check_given_gradient("dh", dh, f"(N, {cell.h_symbol})", (N, P), dtype), None
            dtype = dlast.dtype
        else:
            dh = check_given_gradient("dh", dh, f"(N, T, {cell.h_symbol})", (N, T, P), dtype)
            dtype = dh.dtype
    last = NOTHING[cell.states] if dstate is None else check_dstate(cell, dstate, N, sizes, dtype)
    if dlast is not None:
        last = [dlast if last[0] is None else dlast + last[0], *last[1:]]
    cache = cache.in_dtype(dtype)
    spans, h0 = cache.spans, cache.h0
    if spans is not None:
        h0 = spans.initial(h0)
        last = [None if gradient is None else spans.final_gradient(gradient) for gradient in last]
    kept = Kept(*cache[4:])
    widths = (P, H)[: len(cell.states)]
    found = _sequence.run_backward(
        cell,
        cache.x,
        h0,
        cache[2:4],
        kept,
        sizes,
        dh,
        last,
        num_threads,
        packed,
        spans,
        cache.checkpoints,
        cache.own,
        cache.projection,
        later,
    )
    shapes, first = cache.shapes or (None,) * 3, [found.dh0, found.dtrack0][: len(cell.states)]
    given_dh = dlast if dh is None else dh
    if is_plain and given_dh is not None and cache is given and cache.x.ndim == 3:
        _remember_backward(family, sizes, cache, given_dh, ())
    if spans is not None:
        first = [
            spans.initial_gradient(np.ascontiguousarray(gradient), width)
            for gradient, width in zip(first, widths, strict=True)
        ]
    first = [sum_to(gradient, given_shape) for gradient, given_shape in zip(first, shapes[1:], strict=False)]
    return _gradients(cell, found.dx.reshape(shape), first, found.dWx, found.dWh, found.dbs)


def _gradients(cell: Cell, dx: np.ndarray, first: list[np.ndarray], dWx: Any, dWh: Any, dbs: Any) -> SequenceGradients:
    """Five gradients as a tuple, and those of a second state and a second bias; `first` are those of first states."""
    result = SequenceGradients((dx, first[0], dWx, dWh, dbs[0]))
    if len(cell.states) > 1:
        result.dc0 = first[1]
    if cell.own:
        result.dpeepholes = _sequence.peepholes_of(cell, dbs[1])
    elif cell.bias_count > 1:
        result.dbh = dbs[1]
    if cell.projected:
        result.dprojection = dprojection(cell, dbs, dWh)
    return result


def dprojection(cell: Cell, dbs: tuple[np.ndarray, ...], dWh: np.ndarray) -> np.ndarray:
    """Gradient (H, P) of a projection, which comes after those of the biases."""
    return dbs[cell.bias_count].reshape(-1, len(dWh))


def step_forward(
    family: Family,
    x: Any,
    states: tuple[Any, ...],
    Wx: Any,
    Wh: Any,
    biases: tuple[Any, ...],
    keep_cache: bool,
    num_threads: int | None,
    packed: Any = None,
    caller: str | None = "function",
) -> tuple[Any, ...]:
    """Advance by one step; returns the next states and the cache."""
    if recorder.listeners and caller:
        again = functools.partial(
            step_forward, family, x, states, Wx, Wh, biases, keep_cache, num_threads, packed, None
        )
        return _recorded(family.cell, caller, "step_forward", _named(family.cell, x, states, Wx, Wh, biases), again)
    states_of = family.cell.states
    if num_threads is None and packed is None and not recorder.listeners:
        small = _run_small(family, x, states, Wx, Wh, biases, keep_cache, None)
        if small is not None:
            _, h, track, cache, _ = small
            if len(states_of) == 1:
                return h, cache
            H = Wx.shape[1] // len(family.cell.gates) if family.keeps_more else h.shape[1]
            return h, track[-1, :, :H].copy(), cache
    _, h, track, shapes, cache, _ = _run(
        family, STEP_NAMES[states_of], x, states, Wx, Wh, biases, keep_cache, num_threads, packed, True
    )
    if len(states_of) == 1:
        if shapes is None:
            return h, cache
        following = [h]
    else:
        following = [h, track[-1, :, : np.shape(Wx)[1] // len(family.cell.gates)].copy()]
    if shapes is not None and all(shape is not None and len(shape) < 2 for shape in shapes):
        following = [state[0] for state in following]
    return *following, cache


def step_backward(
    family: Family,
    names: tuple[str, ...],
    gradients: tuple[Any, ...],
    cache: Any,
    num_threads: int | None,
    caller: str | None = "function",
) -> tuple[Any, ...]:
    """Propagate gradients of the next states back through one step; returns dx, those of the states, dWx, dWh, dbs."""
    family = clipped(family, getattr(cache, "clip", None))
    cell = family.cell
    if recorder.listeners and caller:
        again = functools.partial(step_backward, family, names, gradients, cache, num_threads, None)
        given = {**dict(zip(names, gradients, strict=True)), "cache": cache}
        return _recorded(cell, caller, "step_backward", given, again)
    forward_name = f"{cell.name}_step_forward"
    if num_threads is None and getattr(cache, "shapes", cell) is None:
        small = _run_small_backward(family, cache, gradients[0], gradients[1:])
        if small is not None and cache.x.ndim == 2:
            dx, dh0, dtrack0, dWx, dWh, dbs = small
            if len(cell.states) == 1:
                return dx, dh0, dWx, dWh, dbs
            H = dWx.shape[1] // len(cell.gates) if family.keeps_more else dh0.shape[1]
            return dx, dh0, dtrack0[:, :H].copy(), dWx, dWh, dbs
    if num_threads is not None:
        check_num_threads(num_threads)
    cache, sizes = check_cell_cache(cell, cache, family.cache, forward_name, LANES)
    check_single_step(cache, sizes.T, forward_name)
    dtype, shapes = cache.x.dtype, cache.shapes
    checked = []
    for name, gradient, symbol, width in zip(names, gradients, (cell.h_symbol, "H"), (sizes.P, sizes.H), strict=False):
        symbols, shape = f"(N, {symbol})", (sizes.N, width)
        if type(gradient) is not np.ndarray or gradient.shape != shape:
            gradient = check_broadcast(name, gradient, symbols, shape)
        checked.append(check_given_gradient(name, gradient, symbols, shape, dtype))
        dtype = checked[-1].dtype
    dnext_h, *others = [gradient if gradient.dtype is dtype else gradient.astype(dtype) for gradient in checked]
    cache = cache.in_dtype(dtype)
    dx, dh0, dtrack0, dWx, dWh, dbs = _sequence.run_backward(
        cell,
        cache.x,
        cache.h0,
        cache[2:4],
        Kept(*cache[4:]),
        sizes,
        dnext_h,
        [None, *others],
        num_threads,
        own=cache.own,
        projection=cache.projection,
    )
    if shapes is None and num_threads is None and cache.x.ndim == 2:
        _remember_backward(family, sizes, cache, dnext_h, tuple(others))
    states = [dh0] if len(cell.states) == 1 else [dh0, dtrack0.copy()]
    if shapes is not None:
        dx, *states = (sum_to(g, given) for g, given in zip((dx, *states), shapes, strict=True))
    return dx, *states, dWx, dWh, dbs


def step_gradients(dx: np.ndarray, dprev_h: np.ndarray, dWx: Any, dWh: Any, dbs: Any) -> StepGradients:
    """Five gradients as a tuple, and that of the second bias."""
    result = StepGradients((dx, dprev_h, dWx, dWh, dbs[0]))
    result.dbh = dbs[1]
    return result


def sum_to(gradient: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """The gradient of what was broadcast from `shape` to that of the gradient; None was not."""
    if shape is None or gradient.shape == shape:
        return gradient
    new = gradient.ndim - len(shape)
    stretched = [axis for axis, length in enumerate(shape, new) if length == 1 != gradient.shape[axis]]
    return gradient.sum(axis=(*range(new), *stretched)).reshape(shape)


STATE_NAMES = {("h",): ("h0",), ("h", "c"): ("h0", "c0")}
STEP_NAMES = {("h",): ("prev_h",), ("h", "c"): ("prev_h", "prev_c")}

NOTHING = {("h",): (None,), ("h", "c"): (None, None)}
