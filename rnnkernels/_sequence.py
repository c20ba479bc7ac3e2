"""What the passes of all cells share: packing of weights, plans, workspaces, and the order of kernel calls."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnkernels import _recorder as recorder
from rnnkernels._checks import Sizes
from rnnkernels._memory import aligned_empty, aligned_empty_together, aligned_zeros, empty
from rnnkernels._threads import Team, segments, threads_for
from rnnkernels._tuning import (
    BACKWARD_CHUNK_ROWS,
    FORWARD_CHUNK_BYTES,
    FORWARD_CHUNK_ROWS,
    PACKED_ROWS,
    STEP_FLOPS,
    STRIP_BYTES,
    THREAD_ROWS,
)
from rnnkernels.kernels import layout, micro_kernel, phases, simd


def unit_columns(hidden: int, dtype: np.dtype) -> int:
    """Hidden units rounded up to whole vectors: the columns of one gate inside the package."""
    lanes = simd.lanes_of(dtype)
    return -(-hidden // lanes) * lanes


def panel_columns(columns: int, dtype: np.dtype) -> int:
    """Columns rounded up to whole panels."""
    width = micro_kernel.panel_columns(dtype)
    return -(-columns // width) * width


def panels_shape(depth: int, columns: int, dtype: np.dtype) -> tuple[int, int]:
    """Shape of a packed matrix (depth, columns), a panel in each row."""
    width = micro_kernel.panel_columns(dtype)
    return -(-columns // width), depth * width


def blocks_shape(rows: int, columns: int, dtype: np.dtype) -> tuple[int, int]:
    """Shape of the sums of a weight gradient (rows, columns), in blocks of columns."""
    width = phases.PANELS_AT_ONCE * micro_kernel.panel_columns(dtype)
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


def step_flops(sizes: Sizes, gates: int) -> int:
    """Floating-point operations of the products of one forward step; a backward step has twice as many."""
    return 2 * gates * sizes.N * sizes.H * (sizes.D + sizes.H)


def plan_forward(sizes: Sizes, gates: int, dtype: np.dtype, num_threads: int | None) -> Plan:
    """Plan a forward pass."""
    N, T, _, H = sizes
    flops = step_flops(sizes, gates)
    threads, by_rows = _split(sizes, dtype, flops, num_threads)
    rows = max(-(-N // threads) if by_rows else N, 1)
    row_bytes = gates * unit_columns(H, dtype) * dtype.itemsize
    chunk = max(FORWARD_CHUNK_BYTES // max(rows * row_bytes, 1), FORWARD_CHUNK_ROWS // rows, 1)
    panel_bytes = rows * gates * micro_kernel.panel_columns(dtype) * dtype.itemsize
    strip = micro_kernel.VECTORS_PER_PANEL * max(STRIP_BYTES // panel_bytes, 1)
    return Plan(min(chunk, max(T, 1)), strip, threads, by_rows, flops)


def plan_backward(sizes: Sizes, gates: int, dtype: np.dtype, num_threads: int | None) -> Plan:
    """Plan a backward pass."""
    N, T, _, _ = sizes
    flops = 2 * step_flops(sizes, gates)
    threads, by_rows = _split(sizes, dtype, flops, num_threads)
    chunks = max(round(N * T / BACKWARD_CHUNK_ROWS), 1)
    return Plan(max(-(-T // chunks), 1), 0, threads, by_rows, flops)


def _split(sizes: Sizes, dtype: np.dtype, step_flops: int, num_threads: int | None) -> tuple[int, bool]:
    """Return how many threads a pass takes, and whether they divide the batch or the hidden units."""
    panels = panel_columns(sizes.H, dtype) // micro_kernel.panel_columns(dtype)
    parts = max(min(panels, step_flops // STEP_FLOPS), sizes.N // THREAD_ROWS)
    threads = threads_for(sizes.T * step_flops, parts, num_threads)
    return threads, threads > 1 and threads * THREAD_ROWS <= sizes.N


def pack_forward(team: Team, Wx: np.ndarray, Wh: np.ndarray, b: np.ndarray, gates: int) -> phases.ForwardWeights:
    """Pack the weights for the forward kernels."""
    dtype = Wx.dtype
    columns = gates * unit_columns(Wh.shape[0], dtype)
    bias = aligned_empty((1, panel_columns(columns, dtype)), dtype)
    layout.interleave_row(b, gates, bias)
    shapes = [panels_shape(len(W), columns, dtype) for W in (Wx, Wh)]
    Wx, Wh = pack(team, layout.pack_columns, (Wx, Wh), gates, shapes)
    return phases.ForwardWeights(Wx, Wh, bias)


def pack_backward(team: Team, Wx: np.ndarray, Wh: np.ndarray, gates: int) -> phases.BackwardWeights:
    """Pack the transposed weights for the backward kernels."""
    depth = gates * unit_columns(len(Wh), Wh.dtype)
    shapes = [panels_shape(depth, len(W), W.dtype) for W in (Wx, Wh)]
    return phases.BackwardWeights(*pack(team, layout.pack_transposed, (Wx, Wh), gates, shapes))


def pack(
    team: Team,
    kernel: Callable[..., None],
    matrices: Sequence[np.ndarray],
    gates: int,
    shapes: Sequence[tuple[int, int]],
) -> list[np.ndarray]:
    """Return weights as panels of these shapes; `kernel` is `layout.pack_columns` or `layout.pack_transposed`."""
    packed = aligned_empty_together(shapes, matrices[0].dtype)
    for weights, panels in zip(matrices, packed, strict=True):
        team.run(kernel, (weights, gates, panels), (max(len(weights) // PACKED_ROWS, 1),))
    return packed


def unpack(team: Team, sums: np.ndarray, gates: int, gradient: np.ndarray) -> None:
    """Overwrite a weight gradient with its sums."""
    team.run(layout.unpack_sums, (sums, gates, gradient), (max(len(gradient) // PACKED_ROWS, 1),))


def _traced(work: Any, plan: Plan, steps: int) -> Any:
    """Return a workspace with room for the times of a kernel call over some steps, if somebody profiles."""
    if not recorder.listeners:
        return work
    return work._replace(trace=recorder.new_trace(plan.threads, -(-steps // plan.chunk)))


def run_forward(
    kernel: Callable[..., None],
    x: np.ndarray,
    h0: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray, np.ndarray],
    h: np.ndarray,
    kept: tuple[np.ndarray, ...],
    sizes: Sizes,
    gates: int,
    num_threads: int | None,
) -> None:
    """Run a forward kernel over all steps; overwrites `h` and the arrays in `kept`."""
    dtype = x.dtype
    N, T, D, H = sizes
    plan = plan_forward(sizes, gates, dtype, num_threads)
    columns = gates * unit_columns(H, dtype)
    strips = 1 if plan.by_rows else plan.threads
    z_columns = columns if plan.chunk > 1 else strips * plan.strip * simd.lanes_of(dtype) * gates
    work = phases.ForwardWorkspace(
        x=aligned_empty((plan.chunk * N, row_stride(D, dtype)), dtype),
        z=aligned_empty((plan.chunk * N, row_stride(z_columns, dtype)), dtype),
        h=aligned_empty(((plan.chunk + 1) * N, row_stride(H, dtype)), dtype),
        trace=recorder.NO_TRACE,
    )
    work.h[:N, :H] = h0
    with Team(plan.threads) as team:
        packed = pack_forward(team, *weights, gates)
        for begin, end in segments(T, plan.flops):
            data = (x, packed, h, *kept, _traced(work, plan, end - begin))
            team.run(kernel, data, (begin, end, plan.chunk, plan.strip, plan.by_rows))


def run_backward(
    kernel: Callable[..., None],
    x: np.ndarray,
    h0: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    kept: tuple[np.ndarray, ...],
    dh: np.ndarray,
    carried: tuple[np.ndarray, ...],
    sizes: Sizes,
    gates: int,
    num_threads: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Run a backward kernel from the last step to the first; overwrites the arrays in `carried`.

    Returns
    -------
    dx, dh0, dWx, dWh, db : ndarray
    """
    dtype = x.dtype
    N, T, D, H = sizes
    plan = plan_backward(sizes, gates, dtype, num_threads)
    columns = gates * unit_columns(H, dtype)
    depth = plan.chunk * N
    shapes = blocks_shape(D, columns, dtype), blocks_shape(H, columns, dtype), (1, panel_columns(columns, dtype))
    sums = phases.WeightGradients(*aligned_empty_together(shapes, dtype))
    work = phases.BackwardWorkspace(
        x=aligned_empty((depth, row_stride(D, dtype)), dtype),
        h=aligned_empty((depth + N, row_stride(H, dtype)), dtype),
        dh=aligned_empty((depth + N, row_stride(H, dtype)), dtype),
        dz=aligned_empty((depth, row_stride(columns, dtype)), dtype),
        dx=aligned_empty((depth, row_stride(D, dtype)), dtype),
        xT=aligned_empty((unit_columns(D, dtype), row_stride(depth, dtype)), dtype),
        hT=aligned_empty((unit_columns(H, dtype), row_stride(depth, dtype)), dtype),
        dz_panels=aligned_empty((plan.threads, phases.PANELS_AT_ONCE * depth * panel_columns(1, dtype)), dtype),
        zeros=aligned_zeros((1, row_stride(max(D, columns), dtype)), dtype),
        trace=recorder.NO_TRACE,
    )
    dx = empty((N, T, D), dtype)
    work.dh[:N] = 0
    if T > 0:
        work.dh[:N, :H] = dh[:, -1]
    with Team(plan.threads) as team:
        packed = pack_backward(team, *weights, gates)
        for begin, end in reversed(list(segments(T, plan.flops))):
            data = (x, h0, packed, *kept, dh, *carried, dx, sums, _traced(work, plan, end - begin))
            team.run(kernel, data, (begin, end, plan.chunk, plan.by_rows))
        dWx, dWh, db = (empty((length, gates * H), dtype) for length in (D, H, 1))
        if T > 0:
            unpack(team, sums.dWx, gates, dWx)
            unpack(team, sums.dWh, gates, dWh)
            db.reshape(gates, H)[...] = sums.db[0, :columns].reshape(gates, -1)[:, :H]
        else:
            for gradient in (dWx, dWh, db):
                gradient.fill(0)
    dh0 = empty((N, H), dtype)
    dh0[...] = work.dh[:N, :H]
    return dx, dh0, dWx, dWh, db[0]
