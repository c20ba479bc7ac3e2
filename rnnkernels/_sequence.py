"""What the passes of all cells share: plans, packing of weights, scratch, and the order of kernel calls."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnkernels import _recorder as recorder
from rnnkernels import _tuning as tuning
from rnnkernels._checks.cells import Sizes
from rnnkernels._memory import borrow, empty, give_back, shared_zeros, whole_lines, zeros
from rnnkernels._packing import (
    all_matrices,
    backward_packing,
    forward_packing,
    pack,
    panel_columns,
    projection_of,
    unit_columns,
)
from rnnkernels._pipeline import Pass
from rnnkernels._spans import MOST_KEPT, Spans, whole_places, whole_spans
from rnnkernels._threads import ALONE, Team, get_num_threads, segments, threads_for
from rnnkernels._tuning import PACKED_ROWS
from rnnkernels.kernels import in_place, layout, micro_kernel, passes, phases, simd
from rnnkernels.kernels.cell import Cell


def blocks_shape(rows: int, columns: int, dtype: np.dtype) -> tuple[int, int]:
    """Shape of the sums of a weight gradient (rows, columns), in blocks of columns."""
    width = layout.PANELS_AT_ONCE * micro_kernel.panel_columns(dtype)
    return -(-columns // width) * rows, width


def row_stride(columns: int, dtype: np.dtype) -> int:
    """Length of a row of at least `columns` elements, in whole panels.

    Rows a multiple of 512 bytes apart would share few sets of a cache, so these get one panel more.
    """
    stride = panel_columns(columns, dtype)
    return stride if stride * dtype.itemsize % 512 else stride + micro_kernel.panel_columns(dtype)


def natural(array: np.ndarray, hidden: int, gates: int) -> np.ndarray:
    """A kept array (..., U * G * L) of interleaved columns as (..., G, H)."""
    lanes = simd.lanes_of(array.dtype)
    units = array.shape[-1] // (gates * lanes)
    split = array.reshape(*array.shape[:-1], units, gates, lanes)
    joined = np.moveaxis(split, -2, -3).reshape(*array.shape[:-1], gates, units * lanes)
    return joined[..., :hidden]


def interleaved(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The inverse of `natural`, in a dtype that may differ, with zeros in the padding."""
    *outer, gates, hidden = array.shape
    lanes = simd.lanes_of(dtype)
    padded = np.zeros((*outer, gates, unit_columns(hidden, dtype)), dtype)
    padded[..., :hidden] = array
    split = padded.reshape(*outer, gates, padded.shape[-1] // lanes, lanes)
    return np.ascontiguousarray(np.moveaxis(split, -3, -2)).reshape(*outer, gates * padded.shape[-1])


def peepholes_of(cell: Cell, own: np.ndarray) -> np.ndarray:
    """Peepholes (G - 1, H), or their gradient, of the bias that is for the row functions, or its gradient."""
    return own.reshape(len(cell.gates), -1)[:-1]


class Plan(NamedTuple):
    """How a pass over sequences is divided; no result depends on it, not in a single bit."""

    chunk: int
    """Most steps of a chunk."""
    strip: int
    """Units of a strip of the forward recurrence, a multiple of a panel; 0 in a backward pass."""
    threads: int
    """Most members of the team."""
    by_rows: bool
    """Whether members of the team divide the sequences of the batch, and not the hidden units."""
    flops: int
    """Floating-point operations of the products of one step."""
    packs: bool
    """Whether weights are packed, rather than read where they lie."""
    blocked: bool
    """Whether weight gradients are summed in blocks of columns, rather than in their own rows."""
    scratch: int
    """Elements of scratch."""


plans: dict[tuple[Any, ...], Plan] = {}
"""Plans of small calls, which would take longer to make than the calls do."""

MOST_PLANS = 1024


def step_flops(sizes: Sizes, cell: Cell) -> int:
    """Floating-point operations of the products of one forward step; a backward step has twice as many."""
    return 2 * sizes.N * sizes.H * (len(cell.gates) * (sizes.D + sizes.P) + sizes.projected)


def _kept(make: Callable[..., Plan]) -> Callable[..., Plan]:
    """Keep the plans that `make` makes, but for those that depend on the places of spans."""

    @functools.wraps(make)
    def plan(
        cell: Cell,
        sizes: Sizes,
        dtype: np.dtype,
        num_threads: int | None,
        has_packed: bool = False,
        spans: Spans | None = None,
    ) -> Plan:
        steps = None if spans is None else spans.steps
        key = make, cell.key, sizes, dtype, get_num_threads(), num_threads, has_packed, steps
        found = plans.get(key)
        if found is None:
            found = make(cell, sizes, dtype, num_threads, has_packed, spans)
            if spans is not None and found.by_rows:
                return found
            if len(plans) < MOST_PLANS:
                plans[key] = found
            else:  # of spans there can be ever new ones
                plans.clear()
        return found

    return plan


@_kept
def plan_forward(
    cell: Cell,
    sizes: Sizes,
    dtype: np.dtype,
    num_threads: int | None,
    has_packed: bool = False,
    spans: Spans | None = None,
) -> Plan:
    """Plan a forward pass; `has_packed` says whether the caller has packed weights."""
    N, T, D, H, projected = sizes
    gates, lanes = len(cell.gates), simd.lanes_of(dtype)
    flops = _mean_step_flops(sizes, cell, spans)
    threads, by_rows = _split(cell, sizes, dtype, flops, num_threads)
    rows = max(-(-N // threads) if by_rows else N, 1)
    if by_rows and spans is not None:
        rows = passes.most_rows_of_a_part(spans.places, threads)
    columns = gates * unit_columns(H, dtype)
    chunk = max(
        tuning.FORWARD_CHUNK_BYTES // max(rows * columns * dtype.itemsize, 1), tuning.FORWARD_CHUNK_ROWS // rows, 1
    )
    chunk = min(chunk, max(T, 1))
    panel_bytes = rows * gates * micro_kernel.panel_columns(dtype) * dtype.itemsize
    strip = micro_kernel.VECTORS_PER_PANEL * max(tuning.STRIP_BYTES // panel_bytes, 1)
    strips = 1 if by_rows else threads
    z_columns = columns if chunk > 1 or cell.late else strips * strip * lanes * gates
    at = phases.forward_regions(
        rows, chunk, D, H, projected, gates, cell.late, cell.bias_count, cell.own, z_columns, lanes
    )
    scratch = at.parts + (threads if by_rows else 1) * at.part + threads * in_place.BUFFER_VECTORS * lanes
    scratch = whole_lines(scratch, dtype)
    packs = has_packed or _is_worth_packing(cell, sizes, dtype, tuning.PACKED_FORWARD_STEPS, N + 1)
    return Plan(chunk, strip, threads, by_rows, flops, packs, False, scratch)


@_kept
def plan_backward(
    cell: Cell,
    sizes: Sizes,
    dtype: np.dtype,
    num_threads: int | None,
    has_packed: bool = False,
    spans: Spans | None = None,
) -> Plan:
    """Plan a backward pass; `has_packed` says whether the caller has packed weights."""
    N, T, D, H, projected = sizes
    lanes = simd.lanes_of(dtype)
    flops = 2 * _mean_step_flops(sizes, cell, spans)
    threads, by_rows = _split(cell, sizes, dtype, flops, num_threads)
    chunks = max(round(N * T / tuning.BACKWARD_CHUNK_ROWS), 1)
    chunk = max(-(-T // chunks), 1)
    blocked = chunk < T or H % lanes > 0 or projected % lanes > 0
    at = phases.backward_regions(
        N, chunk, D, H, projected, len(cell.gates), cell.late, cell.bias_count, cell.own, blocked, lanes
    )
    scratch = whole_lines(at.panels + threads * at.member, dtype)
    packs = has_packed or _is_worth_packing(cell, sizes, dtype, tuning.PACKED_BACKWARD_STEPS, 1)
    return Plan(chunk, 0, threads, by_rows, flops, packs, blocked, scratch)


def _mean_step_flops(sizes: Sizes, cell: Cell, spans: Spans | None) -> int:
    """Those of a forward step in the mean: not all sequences have all steps."""
    flops = step_flops(sizes, cell)
    return flops if spans is None else flops * spans.steps // (sizes.N * sizes.T)


def _is_worth_packing(cell: Cell, sizes: Sizes, dtype: np.dtype, steps: tuple[float, float], rows: int) -> bool:
    """Whether matrices are used often enough to be packed; `rows` of a product count as so many, see `tuning`."""
    T = sizes.T
    n_bytes = step_flops(sizes._replace(N=1), cell) // 2 * dtype.itemsize
    least, more = steps
    return T >= tuning.PACKED_LEAST_STEPS and T * rows >= least + more / math.sqrt(max(n_bytes, 1) * 1e-6)


def _split(cell: Cell, sizes: Sizes, dtype: np.dtype, step_flops: int, num_threads: int | None) -> tuple[int, bool]:
    """Return how many threads a pass takes, and whether they divide the batch or the hidden units."""
    panels = panel_columns(sizes.H, dtype) // micro_kernel.panel_columns(dtype)
    is_near = len(cell.gates) * sizes.P * sizes.H * dtype.itemsize <= tuning.NEAR_BYTES
    rows = tuning.THREAD_ROWS if is_near else tuning.FAR_THREAD_ROWS
    parts = max(min(panels, step_flops // tuning.STEP_FLOPS), sizes.N // rows)
    threads = threads_for(sizes.T * step_flops, parts, num_threads)
    return threads, threads > 1 and threads * rows <= sizes.N


def _kind(direction: str, cell: Cell, sizes: Sizes, dtype: np.dtype, has_packed: bool, spans: Spans | None) -> Any:
    """What calls have in common whose time is the same, in proportion to their steps if they have spans."""
    if spans is None:
        return direction, cell.key, sizes, dtype, has_packed
    return direction, cell.key, sizes.N.bit_length(), *sizes[2:], dtype, has_packed


def unpack(team: Team, sums: np.ndarray, gates: int, gradient: np.ndarray) -> None:
    """Overwrite a weight gradient with its sums."""
    team.run(layout.unpack_sums, (sums, gates, gradient), (max(len(gradient) // PACKED_ROWS, 1),))


class Kept(NamedTuple):
    """What a forward pass keeps of its steps, see `rnnkernels.kernels.passes`."""

    tape: np.ndarray
    track: np.ndarray


class SmallCall(NamedTuple):
    """All that a call needs that reads weights where they lie, on one thread, in one kernel call."""

    code: Any
    shapes: tuple[tuple[int, ...], ...]
    """Of x, the states, Wx, Wh and the biases."""
    rows: tuple[int, int] | None
    """Shape of x for the kernel; None if that is its own."""
    h: tuple[int, int]
    last: tuple[int, int]
    tape: tuple[int, int, int]
    track: tuple[int, int, int]
    """Shapes of arrays."""
    no_h: np.ndarray | None
    """The hidden states of all steps where only the last ones are wanted."""
    no_tape: np.ndarray | None
    """The tape of a cell that keeps nothing in it."""
    no_states: tuple[np.ndarray, ...]
    no_bias: np.ndarray
    """Zeros, read-only, in the place of states that are None, and of a last bias."""
    places: np.ndarray
    scratch: int
    division: tuple[Any, ...]
    """Last arguments of the kernel."""
    of_spans: dict[tuple[int, int, int], "SmallCall"]
    """The same for spans of the batch, by their number, the steps of the longest and the direction."""


def small_forward(
    cell: Cell, sizes: Sizes, dtype: np.dtype, keeps: bool, only_last: bool, *arguments: np.ndarray
) -> SmallCall | None:
    """Make a small call for arrays like these, x, the states, Wx, Wh and the biases; None if it is not small."""
    N, T, D, H, _ = sizes
    plan = plan_forward(cell, sizes, dtype, None)
    if plan.packs or T * plan.flops >= tuning.SMALL_FLOPS or N * T * H == 0 or N > MOST_KEPT:
        return None
    units, shapes = unit_columns(H, dtype), tuple([array.shape for array in arguments])
    zeros_of = [shared_zeros(shape, dtype) for shape in (*shapes[1 : 1 + len(cell.states)], (len(cell.gates) * H,))]
    return SmallCall(
        cell.machine_code("forward", dtype),
        shapes,
        None if arguments[0].ndim == 2 else (N * T, D),
        (N * T, sizes.P),
        (N, sizes.P),
        (T if keeps else 1, N, len(cell.tape) * units),
        (T + 1 if keeps else 1, N, units),
        np.zeros((0, sizes.P), dtype) if only_last else None,
        None if cell.tape else np.zeros((T if keeps else 1, N, 0), dtype),
        tuple(zeros_of[:-1]),
        zeros_of[-1],
        whole_places(N, T),
        plan.scratch,
        (recorder.NO_TRACE, ALONE, 0, 1, False, 0, T, plan.chunk, plan.strip, 1, False, cell.clip),
        {},
    )


def small_spans(cell: Cell, call: SmallCall, dtype: np.dtype, spans: int, longest: int, onward: int) -> SmallCall:
    """Make a small call of one for a whole batch: for so many spans of it, of so many steps at most, anywhere.

    Shapes of a tape and a track that are kept are those of each call.
    """
    D, H, P = call.shapes[0][2], call.shapes[len(cell.states)][1], call.last[1]
    plan = plan_forward(cell, Sizes(spans, longest, D, H, P * cell.projected), dtype, 1)
    return call._replace(
        last=(spans, P),
        tape=(1, spans, call.tape[2]),
        track=(1, spans, call.track[2]),
        no_tape=None,
        places=whole_places(0, 0),
        scratch=plan.scratch,
        division=(
            *(recorder.NO_TRACE, ALONE, 0, onward, False, 0, longest),
            *(plan.chunk, plan.strip, 1, False, cell.clip),
        ),
    )


def run_forward(
    cell: Cell,
    x: np.ndarray,
    h0: np.ndarray,
    track0: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    biases: tuple[np.ndarray, ...],
    sizes: Sizes,
    keeps: bool,
    only_last: bool,
    num_threads: int | None,
    packed: Sequence[np.ndarray] | None = None,
    spans: Spans | None = None,
    h: np.ndarray | None = None,
    later: list[Pass] | None = None,
) -> tuple[np.ndarray, np.ndarray, Kept]:
    """Run a forward pass from `h0` and the first tracked state, on weights that may have been packed before.

    Where there are `spans`, they are the sequences of `sizes` and of the states. The hidden states go to `h` if it is
    given. With `later` the pass goes there instead, and arrays are filled when it runs; on one thread only. Of a
    projected cell P stands for H in the shapes of hidden states, and the projection, flat, is the last of `biases`.

    Returns
    -------
    h : ndarray of shape (rows of x, H)
        Or (0, H) if `only_last`.
    last : ndarray of shape (N, H)
        Hidden states after the last step.
    kept : Kept
        Of all steps if it `keeps`, or else the last tracked state, alone.
    """
    dtype = x.dtype
    N, T, D, H, _ = sizes
    units, rows = unit_columns(H, dtype), x.size // D if D else math.prod(x.shape[:-1])
    if h is None:
        h = (empty if spans is None or spans.is_whole else zeros)((0 if only_last else rows, sizes.P), dtype)
    last = empty((N, sizes.P), dtype)
    tape_width = len(cell.tape) * units
    if keeps and spans is not None:
        of_tape, of_track = spans.kept_shapes(tape_width, units)
    else:
        of_tape, of_track = (T if keeps else 1, N, tape_width), (T + 1 if keeps else 1, N, units)
    tape, track = empty(of_tape, dtype), empty(of_track, dtype)
    if N * T * H == 0:
        before = track.reshape(math.prod(of_track[:2]), units)[:N]
        before[...] = 0
        before[:, :H] = track0
        last[...] = h0
        return h, last, Kept(tape, track)
    if spans is not None and spans.shortest == 0:
        last[...] = h0  # no step overwrites the state of a sequence without any
    plan = plan_forward(cell, sizes, dtype, num_threads, packed is not None, spans)
    code = cell.machine_code("forward", dtype)
    steps = N * T if spans is None else spans.steps
    recorder.tell_work(recorder.Work(cell.key, sizes, steps, len(h)))
    places, onward = (whole_places(N, T), 1) if spans is None else (spans.places, spans.onward)
    packing = None
    if plan.packs and packed is None:
        packing = forward_packing(cell.key, D, H, sizes.projected, dtype)
    work = borrow(plan.scratch + (packing.size if packing else 0), dtype)
    with Team(plan.threads, _kind("forward", cell, sizes, dtype, packed is not None, spans), steps) as team:
        matrices: Sequence[np.ndarray] = weights
        if packing is not None:
            natural_ones = all_matrices(weights, projection_of(cell, biases))
            packed = pack(team, packing, natural_ones, packing.rows(work[plan.scratch :]))
        if packed is not None:
            matrices = packed[:2]
            if cell.projected:
                biases = *biases[:-1], packed[2].reshape(-1)
        data = x.reshape(rows, D), h0, track0, *matrices, biases, h, last, tape, track, places, work

        def run(begin: int, end: int) -> None:
            arguments = onward, plan.packs, begin, end, plan.chunk, plan.strip, plan.threads, plan.by_rows, cell.clip
            team.run(code, (*data, _new_trace(plan, end - begin)), arguments, (end - begin) * plan.flops)
            if end == T:
                give_back(work)

        if later is not None:
            steps = forward_block(plan, T)
            blocks = [(begin, min(begin + steps, T)) for begin in range(0, T, steps)]
            later.append(Pass(run, blocks, 0))
        else:
            for begin, end in segments(T, plan.flops):
                run(begin, end)
    return h, last, Kept(tape, track)


def forward_block(plan: Plan, T: int) -> int:
    """Steps of a block of a pass that another one waits for; no result depends on it."""
    least = max(T / tuning.OVERLAP_BLOCKS, tuning.OVERLAP_BLOCK_FLOPS / max(plan.flops, 1))
    return min(math.ceil(least), max(int(tuning.SEGMENT_FLOPS / max(plan.flops, 1)), 1))


def backward_block(plan: Plan, _: int) -> int:
    """The same for a backward pass: whole chunks, which sums go over."""
    return plan.chunk * math.ceil(tuning.OVERLAP_BLOCK_FLOPS / (plan.chunk * max(plan.flops, 1)))


def _new_trace(plan: Plan, steps: int) -> np.ndarray:
    """Return room for the times of a kernel call over some steps, if somebody profiles."""
    if not recorder.listeners:
        return recorder.NO_TRACE
    return recorder.new_trace(plan.threads, -(-steps // plan.chunk) * (plan.threads if plan.by_rows else 1))


class Checkpoints(NamedTuple):
    """What a forward pass keeps of its steps if it is to keep little: states, from which it can run again."""

    borders: tuple[int, ...]
    """First steps of blocks of steps, and the last one's end."""
    states: tuple[tuple[np.ndarray, ...], ...]
    """(N, H) each, before each block."""
    biases: tuple[np.ndarray, ...]

    def in_dtype(self, dtype: np.dtype) -> "Checkpoints":
        """The same in another dtype."""
        states = tuple([tuple([state.astype(dtype) for state in block]) for block in self.states])
        return Checkpoints(self.borders, states, tuple([bias.astype(dtype) for bias in self.biases]))


def _bytes_of_blocks(cell: Cell, sizes: Sizes, dtype: np.dtype, spans: Spans | None, steps: int) -> int:
    """Bytes of what is kept of a block of so many steps, and of the states before each block if there are several."""
    N, T, _, H, _ = sizes
    rows = N * steps if spans is None else int(np.minimum(spans.places[1], steps).sum())
    of_row = (len(cell.tape) + 1) * unit_columns(H, dtype) * dtype.itemsize
    of_states = N * (sizes.P + (len(cell.states) - 1) * H) * dtype.itemsize
    return rows * of_row + (-(-T // steps) * of_states if steps < T else 0)


def steps_for(cell: Cell, sizes: Sizes, dtype: np.dtype, spans: Spans | None, budget: int) -> tuple[int, int]:
    """How many steps a block has at most, whole chunks or all, for all to stay within a budget; 0 if nothing does.

    Returns also the least budget that is enough.
    """
    chunk = plan_backward(cell, sizes, dtype, 1).chunk
    needs = functools.partial(_bytes_of_blocks, cell, sizes, dtype, spans)
    powers = [chunk << k for k in range(max(sizes.T // chunk, 1).bit_length())]
    best = min([sizes.T, *powers], key=needs)
    if needs(sizes.T) <= budget:
        return sizes.T, needs(best)
    if needs(best) > budget:
        return 0, needs(best)
    fits, too_many = best // chunk, -(-sizes.T // chunk)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if needs(middle * chunk) <= budget else (fits, middle)
    return fits * chunk, needs(best)


def block_borders(cell: Cell, sizes: Sizes, dtype: np.dtype, steps: int, spans: Spans) -> tuple[int, ...]:
    """Borders of blocks of about so many steps: whole chunks of the backward pass, which sums over them."""
    plan = plan_backward(cell, sizes, dtype, 1, True, spans)
    is_even = bool((spans.places[1] == sizes.T).all())
    borders = [sizes.T]
    for begin, end in reversed(list(segments(sizes.T, plan.flops))):
        while end > begin:
            if is_even:
                end = max(end - plan.chunk, begin)
            else:
                active = phases.more_active_rows(spans.places, 0, end - 1)
                end, _, _ = passes.chunk_begin(spans.places, active, end, begin, plan.chunk * sizes.N)
            borders.append(end)
    borders.reverse()
    kept = [0]
    for before, border in itertools.pairwise(borders[1:]):
        if border - kept[-1] > steps:
            kept.append(before)
    return (*kept, sizes.T)


def run_forward_with_checkpoints(
    cell: Cell,
    x: np.ndarray,
    states: tuple[np.ndarray, ...],
    weights: tuple[np.ndarray, np.ndarray],
    biases: tuple[np.ndarray, ...],
    sizes: Sizes,
    only_last: bool,
    steps: int,
    num_threads: int | None,
    packed: Sequence[np.ndarray] | None,
    spans: Spans,
) -> tuple[np.ndarray, np.ndarray, Kept, Checkpoints]:
    """Do as `run_forward`, and keep states every so many steps."""
    dtype, H = x.dtype, sizes.H
    borders = block_borders(cell, sizes, dtype, steps, spans)
    if packed is None:
        packing = forward_packing(cell.key, sizes.D, H, sizes.projected, dtype)
        packed = pack(Team(1), packing, all_matrices(weights, projection_of(cell, biases)))
    rows = 0 if only_last else x.shape[0] * x.shape[1]
    h = (empty if spans.is_whole else zeros)((rows, sizes.P), dtype)
    recorder.tell_work(recorder.Work(cell.key, sizes, spans.steps, rows))
    before = []
    for begin, end in itertools.pairwise(borders):
        before.append(states)
        block, part = sizes._replace(T=end - begin), spans.part(begin, end)
        first, tracked = states[0], states[-1]
        _, last, kept = run_forward(
            cell, x, first, tracked, weights, biases, block, False, only_last, num_threads, packed, part, h
        )
        states = (last, kept.track[0, :, :H].copy())[: len(states)]
    nothing = empty((0, sizes.N, len(cell.tape) * unit_columns(H, dtype)), dtype)
    return h, states[0], Kept(nothing, kept.track), Checkpoints(borders, tuple(before), biases)


class Gradients(NamedTuple):
    """What a backward pass returns."""

    dx: np.ndarray
    """Of shape (N * T, D)."""
    dh0: np.ndarray
    dtrack0: np.ndarray
    """Of the first tracked state, beside what is in `dh0`."""
    dWx: np.ndarray
    dWh: np.ndarray
    dbs: tuple[np.ndarray, ...]
    """Of all biases, and the flat one of a projection."""


def run_backward(
    cell: Cell,
    x: np.ndarray,
    h0: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    kept: Kept,
    sizes: Sizes,
    dh: np.ndarray | None,
    dstate: Sequence[np.ndarray | None],
    num_threads: int | None,
    packed: Sequence[np.ndarray] | None = None,
    spans: Spans | None = None,
    checkpoints: Checkpoints | None = None,
    own: np.ndarray | None = None,
    projection: np.ndarray | None = None,
    later: list[Pass] | None = None,
) -> Gradients:
    """Run a backward pass from the last step to the first.

    `dh` (N, T, H), or (N, H) for a step, and `dstate`, a gradient (N, H) of each state after the last step, may be
    None, which is zero. Where there are `spans`, they are the sequences of `sizes` and of the states. With
    `checkpoints` the forward pass runs again, block by block. `own` is the bias that row functions read. With a
    `projection` (H, P), P stands for H in the shapes of hidden states. With `later` as `run_forward`, without
    checkpoints.
    """
    dtype = x.dtype
    N, T, D, H, _ = sizes
    count = x.size // D if D else math.prod(x.shape[:-1])
    columns, units = len(cell.gates) * H, unit_columns(H, dtype)
    dtrack = np.zeros((N, units) if len(cell.states) > 1 else (1, 1), dtype)
    for gradient in dstate[1:]:
        if gradient is not None:
            dtrack[:, :H] = gradient
    dx = (empty if spans is None or spans.is_whole else zeros)((count, D), dtype)
    dh0 = empty((N, sizes.P), dtype)
    dWx, dWh = empty((D, columns), dtype), empty((sizes.P, columns), dtype)
    dbs = tuple([empty((columns,), dtype) for _ in range(cell.bias_count)])
    if own is not None:
        dbs[-1][...] = own
    if projection is not None:
        dbs = *dbs, empty((projection.size,), dtype)
    if N * T * H == 0:
        dx.fill(0)
        dh0[...] = 0 if dstate[0] is None else dstate[0]
        for gradient in (dWx, dWh, *dbs):
            gradient.fill(0)
        return Gradients(dx, dh0, dtrack[:, :H], dWx, dWh, dbs)
    rows = np.zeros((0, sizes.P), dtype) if dh is None else dh.reshape(count, sizes.P)
    dlast = np.zeros((0, sizes.P), dtype) if dstate[0] is None else dstate[0]
    plan = plan_backward(cell, sizes, dtype, num_threads, packed is not None, spans)
    code = cell.machine_code("backward", dtype)
    steps = N * T if spans is None else spans.steps
    recorder.tell_work(recorder.Work(cell.key, sizes, steps, 0, checkpoints is not None))
    places, onward = (whole_places(N, T), 1) if spans is None else (spans.places, spans.onward)
    packing = None
    if plan.packs and packed is None:
        packing = backward_packing(cell.key, D, H, sizes.projected, dtype)
    work = borrow(plan.scratch + (packing.size if packing else 0), dtype)
    outputs: tuple[Any, ...] = rows, dlast, dtrack, dx, dh0, dWx, dWh
    further: tuple[np.ndarray, ...] = () if projection is None else (projection.reshape(-1),)
    if (
        checkpoints is None
        and plan.threads == 1
        and not plan.packs
        and not recorder.listeners
        and T * plan.flops < tuning.SEGMENT_FLOPS
        and later is None
    ):
        division = ALONE, 0, onward, False, 0, T, 0, plan.chunk, plan.blocked, False, cell.clip
        code(
            *(x.reshape(count, D), h0, *weights, *kept, *outputs, (*dbs, *further), places, work),
            *(recorder.NO_TRACE, *division),
        )
        give_back(work)
        return Gradients(dx, dh0, dtrack[:, :H], dWx, dWh, dbs)
    blocks: Iterable[tuple[int, int, np.ndarray, Kept]] = [(0, T, h0, kept)]
    if checkpoints is not None:
        blocks = _run_again(cell, x, weights, projection, sizes, num_threads, spans or whole_spans(N, T), checkpoints)
    matrices: Sequence[np.ndarray] = weights
    for first, stop, before, kept_there in blocks:
        kind = _kind("backward", cell, sizes, dtype, packed is not None, spans), stop - first
        with Team(plan.threads, kind, steps) as team:
            if packing is not None and packed is None:
                natural_ones = all_matrices(weights, projection)
                packed = pack(team, packing, natural_ones, packing.rows(work[plan.scratch :]))
            if packed is not None:
                matrices, further = packed[:2], tuple([row.reshape(-1) for row in packed[2:]])
            data = (
                *(x.reshape(count, D), before, *matrices, *kept_there, *outputs),
                *((*dbs, *further), places, work),
            )

            def run(begin: int, end: int, team: Team = team, data: Any = data, first: int = first) -> None:
                arguments = onward, plan.packs, begin, end, first, plan.chunk, plan.blocked, plan.by_rows, cell.clip
                team.run(code, (*data, _new_trace(plan, end - begin)), arguments, (end - begin) * plan.flops)
                if begin == 0:
                    give_back(work)

            parts = reversed(list(segments(T, plan.flops)))
            if later is not None:  # a chunk reads the gradient of the step before it
                length = backward_block(plan, T)
                ends = [(begin, stop) for begin, end in parts for stop in range(end, begin, -length)]
                later.append(Pass(run, [(max(stop - length, begin), stop) for begin, stop in ends], 1))
                break
            for begin, end in parts:
                begin, end = max(begin, first), min(end, stop)
                if begin < end:
                    run(begin, end)
    return Gradients(dx, dh0, dtrack[:, :H], dWx, dWh, dbs)


def _run_again(
    cell: Cell,
    x: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    projection: np.ndarray | None,
    sizes: Sizes,
    num_threads: int | None,
    spans: Spans,
    checkpoints: Checkpoints,
) -> Iterator[tuple[int, int, np.ndarray, Kept]]:
    """Blocks of steps from the last to the first, with the hidden state before and what the forward pass keeps."""
    packing = forward_packing(cell.key, sizes.D, sizes.H, sizes.projected, x.dtype)
    packed = pack(Team(1), packing, all_matrices(weights, projection))
    blocks = zip(itertools.pairwise(checkpoints.borders), checkpoints.states, strict=True)
    for (begin, end), states in reversed(list(blocks)):
        block, part = sizes._replace(T=end - begin), spans.part(begin, end)
        first, tracked = states[0], states[-1]
        _, _, kept = run_forward(
            cell, x, first, tracked, weights, checkpoints.biases, block, True, True, num_threads, packed, part
        )
        yield begin, end, first, kept


class SmallBackward(NamedTuple):
    """As `SmallCall`, for a backward pass."""

    code: Any
    shapes: tuple[tuple[int, ...], ...]
    """Of the fields of the cache and of the gradients."""
    dx: tuple[int, int]
    dh0: tuple[int, int]
    dWx: tuple[int, int]
    dWh: tuple[int, int]
    dbs: tuple[tuple[int], ...]
    """Shapes of the gradients; the last ones of the biases and of a flat projection."""
    nothing: np.ndarray
    """Stands for what there is no gradient of."""
    places: np.ndarray
    scratch: int
    division: tuple[Any, ...]
    """Last arguments of the kernel."""


def small_backward(
    cell: Cell, sizes: Sizes, dtype: np.dtype, spans: Spans | None, *arguments: np.ndarray
) -> SmallBackward | None:
    """Make a small call for arrays like these, the fields of a cache and gradients; None if it is not small.

    Where there are spans it is for all others of these `sizes` in the same direction, too.
    """
    N, T, D, H, projected = sizes
    if N * T * H == 0 or N > MOST_KEPT:
        return None
    plan = plan_backward(cell, sizes, dtype, None if spans is None else 1)
    steps = N * T if spans is None else spans.steps
    if plan.packs or steps * plan.flops >= N * tuning.SMALL_FLOPS:
        return None
    columns = len(cell.gates) * H
    return SmallBackward(
        cell.machine_code("backward", dtype),
        tuple([array.shape for array in arguments]),
        (math.prod(arguments[0].shape[:-1]), D),
        (N, sizes.P),
        (D, columns),
        (sizes.P, columns),
        (*[(columns,)] * cell.bias_count, *[(H * projected,)] * cell.projected),
        np.zeros((0, sizes.P), dtype),
        whole_places(N, T),
        plan.scratch,
        (
            *(recorder.NO_TRACE, ALONE, 0, 1 if spans is None else spans.onward),
            *(False, 0, T, 0, plan.chunk, plan.blocked, False, cell.clip),
        ),
    )
