"""What all cells share: the workspaces of a chunk of steps, and the phases before and after the recurrence.

A chunk holds `steps * N` time-major rows. Each row matrix of a workspace is an array of shape (rows, stride) whose
rows are padded; see `layout` for the order of columns. The members of a team divide rows where a phase treats them
alike, and hidden units, in whole panels, or sequences where it does not. The members change no order of a sum.
"""

from collections import namedtuple

from rnnkernels.kernels.jit import expanded
from rnnkernels.kernels.layout import (
    copy_row,
    fill_row,
    gather_rows,
    pack_and_add_rows,
    scatter_rows,
    transpose_rows,
    unit_count,
)
from rnnkernels.kernels.micro_kernel import PANEL_GROUPS, VECTORS_PER_PANEL, multiply, panel_width
from rnnkernels.kernels.simd import lanes
from rnnkernels.kernels.team import share

PANELS_AT_ONCE = PANEL_GROUPS[-1]
"""Panels of dz for which the weight gradients of a chunk are summed together: as many as a full tile takes. On an AMD
EPYC (Zen 4), where it takes two, one at a time made these products alone 4 to 14 % slower, and whole backward
passes by less than the noise at large batches (float32, 24 November 2026)."""

ForwardWeights = namedtuple("ForwardWeights", "Wx Wh b")
ForwardWeights.__doc__ = """Packed by columns: panels of Wx (depth D) and Wh (depth H), and the bias in one row."""

BackwardWeights = namedtuple("BackwardWeights", "Wx Wh")
BackwardWeights.__doc__ = """Packed transposes: panels of Wx.T and Wh.T, of interleaved depth."""

WeightGradients = namedtuple("WeightGradients", "dWx dWh db")
WeightGradients.__doc__ = """Sums with D, H and one row; accumulated, and given to the caller by `unpack_sums`.

Columns lie in gate order, each gate padded to whole units. Those of dWx and dWh are divided in blocks, see `layout`.
"""

ForwardWorkspace = namedtuple("ForwardWorkspace", "x z h trace")
ForwardWorkspace.__doc__ = """Rows of a chunk: inputs, pre-activations, hidden states.

`h` has the states before the chunk in its first N rows, and so holds one step more; it carries the state from call to
call. For `trace` see the module of that name.
"""

BackwardWorkspace = namedtuple("BackwardWorkspace", "x h dh dz dx xT hT dz_panels zeros trace")
BackwardWorkspace.__doc__ = """Rows of a chunk: inputs, previous hidden states, gradients; and what `accumulate` needs.

`xT` and `hT` are the transposes of `x` and `h`, from the last row to the first; `dz_panels` holds PANELS_AT_ONCE panels
of dz for each member, `zeros` is a row of zeros as wide as any. `dh` has the gradient of the states before the chunk in
its first N rows, and so holds one step more; it carries the gradient from call to call.
"""


@expanded
def row_share(rows, member, size, by_rows):
    """First and end of the sequences of a member: its share if the team divides sequences, or else all."""
    return share(rows, member if by_rows else 0, size if by_rows else 1)


@expanded
def unit_share(units, member, size, by_rows):
    """First and end of a member's units; multiples of a panel, as far as there are units; all if `by_rows`."""
    panels = (units + VECTORS_PER_PANEL - 1) // VECTORS_PER_PANEL
    first, end = share(panels, 0 if by_rows else member, 1 if by_rows else size)
    return min(first * VECTORS_PER_PANEL, units), min(end * VECTORS_PER_PANEL, units)


@expanded
def project(work, rows, first_row, depth, weights, gates, first_unit, end_unit, z_column):
    """Project: z = b + x @ Wx for some rows and units of the workspace; overwrites `work.z` from `z_column` on."""
    column, x_stride, z_stride = first_unit * gates * lanes(work.x), work.x.shape[1], work.z.shape[1]
    multiply(work.x, first_row * x_stride, x_stride, rows,
             weights.Wx, column * depth, depth, (end_unit - first_unit) * gates,
             weights.b, column, 0, work.z, first_row * z_stride + z_column, z_stride, False)  # fmt: skip


@expanded
def recur(h, offset, weights, hidden, z, z_offset, rows, gates, first_unit, end_unit, descending):
    """Recur: z += h @ Wh for the rows of a step and some units; in `z` they begin at `z_offset`.

    Steps are `descending` by turns, see `multiply`; so it is in `recur_backward`.
    """
    column, stride = first_unit * gates * lanes(h), z.shape[1]
    multiply(h, offset, h.shape[1], rows, weights.Wh, column * hidden, hidden, (end_unit - first_unit) * gates,
             z, z_offset, stride, z, z_offset, stride, descending)  # fmt: skip


@expanded
def recur_backward(dz, dz_offset, weights, depth, dh, dh_offset, rows, first_unit, end_unit, descending):
    """Recur: dh += dz @ Wh.T for the rows of a step and some units."""
    column, stride = first_unit * lanes(dz), dh.shape[1]
    multiply(dz, dz_offset, dz.shape[1], rows, weights.Wh, column * depth, depth, end_unit - first_unit,
             dh, dh_offset + column, stride, dh, dh_offset + column, stride, descending)  # fmt: skip


@expanded
def gather_earlier_gradients(dh, target, begin, steps, first_row, end_row, first_unit, end_unit):
    """Time-major gradients from outside for the states before a chunk of steps `begin .. begin + steps` and in it.

    The first N rows of `target` hold the complete gradient of the last step on entry. It moves to the last rows; the
    rows before take the part of `dh` (N, T, H) of steps begin - 1 .. begin + steps - 2, zero for step -1. For some
    sequences and units.
    """
    batch, stride, hidden = dh.shape[0], target.shape[1], dh.shape[2]
    column, rows = first_unit * lanes(dh), end_row - first_row
    width = end_unit * lanes(dh) - column
    columns = max(min(hidden - column, width), 0)
    known = 1 if begin == 0 else 0
    for n in range(first_row, end_row):
        copy_row(target, n * stride + column, target, (steps * batch + n) * stride + column, width)
        if known > 0:
            fill_row(target, n * stride + column, width, 0.0)
    gather_rows(dh, begin - 1 + known, first_row, rows, 0, (steps - known) * rows,
                target, (known * batch + first_row) * stride, stride, batch * stride, column, columns)  # fmt: skip


@expanded
def transpose_chunk(work, inputs, hidden, depth, member, size):
    """Write a member's share of `work.xT` and `work.hT`."""
    transpose_rows(work.x, depth - 1, depth, inputs, work.xT, *share(unit_count(work.x, inputs), member, size))
    transpose_rows(work.h, depth - 1, depth, hidden, work.hT, *share(unit_count(work.h, hidden), member, size))


@expanded
def accumulate(weights, dx, gradients, work, begin, steps, hidden, gates, first, member, size):
    """Add the gradients of a chunk: dWx += x.T @ dz, dWh += h.T @ dz, db += sum of dz; and dx = dz @ Wx.T, overwritten.

    A member takes its share of the panels of the sums and of the rows of dx. Sums start from zero if `first`. Sums over
    rows run backward in time-major order, in parts of SUM_DEPTH rows of a chunk; so do the chunks.
    """
    batch, inputs, width = dx.shape[0], dx.shape[2], panel_width(dx)
    depth, columns = steps * batch, gates * unit_count(dx, hidden) * lanes(dx)
    dz_stride, dx_stride = work.dz.shape[1], work.dx.shape[1]

    first_row, end_row = share(depth, member, size)
    multiply(work.dz, first_row * dz_stride, dz_stride, end_row - first_row,
             weights.Wx, 0, columns, unit_count(dx, inputs),
             work.zeros, 0, 0, work.dx, first_row * dx_stride, dx_stride, False)  # fmt: skip
    scatter_rows(work.dx, 0, dx_stride, batch * dx_stride, dx, begin, 0, batch, first_row, end_row, 0, inputs)

    panel0 = member * work.dz_panels.shape[1]
    first_panel, end_panel = share((columns + width - 1) // width, member, size)
    panel = first_panel
    while panel < end_panel:
        panels = panels_together(panel, end_panel)
        pack_and_add_rows(work.dz, depth - 1, depth, columns, gates, panel, panels, work.dz_panels, panel0,
                          gradients.db, first)  # fmt: skip
        add_product(work.xT, inputs, work.dz_panels, panel0, depth, gradients.dWx, panel, panels, work.zeros, first)
        add_product(work.hT, hidden, work.dz_panels, panel0, depth, gradients.dWh, panel, panels, work.zeros, first)
        panel += panels


@expanded
def add_product(a, rows, b, b0, depth, total, panel, panels, zeros, first):
    """Total += A @ B for `rows` rows and some panels of columns in one block; `total` starts from zero if `first`."""
    stride, width = total.shape[1], panel_width(a)
    here = panel // PANELS_AT_ONCE * rows * stride + panel % PANELS_AT_ONCE * width
    start, s0, start_stride = (zeros, 0, 0) if first else (total, here, stride)
    multiply(a, 0, a.shape[1], rows, b, b0, depth, panels * VECTORS_PER_PANEL,
             start, s0, start_stride, total, here, stride, False)  # fmt: skip


@expanded
def panels_together(panel, end_panel):
    """How many panels `add_product` takes from `panel` on: those of the same block, before `end_panel`."""
    return min(PANELS_AT_ONCE - panel % PANELS_AT_ONCE, end_panel - panel)
