"""What all cells share: the workspaces of a chunk of steps, and the phases before and after the recurrence.

A chunk holds `steps * N` time-major rows. Each row matrix of a workspace is an array of shape (rows, stride) whose
rows are padded; see `layout` for the order of columns. The members of a team divide rows where a phase treats them
alike, and hidden units, in whole panels, where it does not; none of it changes the order of a sum.
"""

from collections import namedtuple

from rnnkernels.kernels.jit import inlined, kernel
from rnnkernels.kernels.layout import copy_row, fill_row, gather_rows, pack_rows, scatter_rows
from rnnkernels.kernels.micro_kernel import VECTORS_PER_PANEL, multiply, panel_width
from rnnkernels.kernels.simd import lanes
from rnnkernels.kernels.team import share

ForwardWeights = namedtuple("ForwardWeights", "Wx Wh b")
ForwardWeights.__doc__ = """Packed by columns: panels of Wx (depth D) and Wh (depth H), and the bias in one row."""

BackwardWeights = namedtuple("BackwardWeights", "Wx Wh")
BackwardWeights.__doc__ = """Packed transposes: panels of Wx.T and Wh.T, of interleaved depth."""

WeightGradients = namedtuple("WeightGradients", "dWx dWh db")
WeightGradients.__doc__ = """Row matrices of interleaved columns with D, H and one row; accumulated."""

ForwardWorkspace = namedtuple("ForwardWorkspace", "x z h trace")
ForwardWorkspace.__doc__ = """Rows of a chunk: inputs, pre-activations, hidden states.

`h` has the states before the chunk in its first N rows, and so holds one step more; it carries the state from call to
call. For `trace` see the module of that name.
"""

BackwardWorkspace = namedtuple("BackwardWorkspace", "x h dh dz dx dz_panels ones zeros trace")
BackwardWorkspace.__doc__ = """Rows of a chunk: inputs, previous hidden states, gradients; and what `accumulate` needs.

`ones` is a single one, `zeros` a row of zeros as wide as `dx`. `dh` has the gradient of the states before the chunk in
its first N rows, and so holds one step more; it carries the gradient from call to call.
"""


@inlined
def unit_share(units, member, size):
    """First and end of a member's units; multiples of a panel, as far as there are units."""
    first, end = share((units + VECTORS_PER_PANEL - 1) // VECTORS_PER_PANEL, member, size)
    return min(first * VECTORS_PER_PANEL, units), min(end * VECTORS_PER_PANEL, units)


@inlined
def panels_of_units(first_unit, end_unit, gates):
    """First and end of the panels of the interleaved columns of a member's units."""
    return first_unit * gates // VECTORS_PER_PANEL, (end_unit * gates + VECTORS_PER_PANEL - 1) // VECTORS_PER_PANEL


@kernel
def gather_inputs(x, target, begin, steps, member, size):
    """Gather a member's share of the rows of a chunk; overwrites them in `target`."""
    first, end = share(steps * x.shape[0], member, size)
    gather_rows(x, begin, first, end, target, 0, target.shape[1], 0, x.shape[2])


@kernel
def project(x, weights, work, steps, first_panel, end_panel, z_column):
    """Project: z = b + x @ Wx for the rows of a chunk and some panels; overwrites `work.z` from `z_column` on."""
    depth, column = x.shape[2], first_panel * panel_width(x)
    multiply(work.x, 0, work.x.shape[1], 1, steps * x.shape[0], weights.Wx, column * depth, depth,
             end_panel - first_panel, weights.b, column, 0, work.z, z_column, work.z.shape[1])  # fmt: skip


@kernel
def recur(h, offset, weights, hidden, z, z_offset, rows, first_panel, end_panel):
    """Recur: z += h @ Wh for the rows of a step and some panels; in `z` they begin at `z_offset`."""
    column, stride = first_panel * panel_width(h), z.shape[1]
    multiply(h, offset, h.shape[1], 1, rows, weights.Wh, column * hidden, hidden, end_panel - first_panel,
             z, z_offset, stride, z, z_offset, stride)  # fmt: skip


@kernel
def recur_backward(dz, dz_offset, weights, depth, dh, dh_offset, rows, first_panel, end_panel):
    """Recur: dh += dz @ Wh.T for the rows of a step and some panels of hidden units."""
    column, stride = first_panel * panel_width(dz), dh.shape[1]
    multiply(dz, dz_offset, dz.shape[1], 1, rows, weights.Wh, column * depth, depth, end_panel - first_panel,
             dh, dh_offset + column, stride, dh, dh_offset + column, stride)  # fmt: skip


@kernel
def gather_earlier_gradients(dh, target, begin, steps, first_unit, end_unit):
    """Time-major gradients from outside for the states before a chunk of steps `begin .. begin + steps` and in it.

    The first N rows of `target` hold the complete gradient of the last step on entry. It moves to the last rows; the
    rows before take the part of `dh` (N, T, H) of steps begin - 1 .. begin + steps - 2, zero for step -1.
    """
    batch, stride, hidden = dh.shape[0], target.shape[1], dh.shape[2]
    column = first_unit * lanes(dh)
    width = end_unit * lanes(dh) - column
    for n in range(batch):
        copy_row(target, n * stride + column, target, (steps * batch + n) * stride + column, width)
    columns = max(min(hidden - column, width), 0)
    if begin > 0:
        gather_rows(dh, begin - 1, 0, steps * batch, target, 0, stride, column, columns)
    else:
        for n in range(batch):
            fill_row(target, n * stride + column, width, 0.0)
        gather_rows(dh, 0, 0, (steps - 1) * batch, target, batch * stride, stride, column, columns)


@kernel
def accumulate(x, weights, dx, gradients, work, begin, steps, hidden, columns, first_panel, end_panel, member, size):
    """Add the gradients of a chunk: dWx += x.T @ dz, dWh += h.T @ dz, db += sum of dz; and dx = dz @ Wx.T, overwritten.

    A member takes some panels of columns of the sums, and its share of the rows of dx. Sums over rows run backward in
    time-major order, and so do the chunks: how steps are divided among them changes nothing.
    """
    depth, inputs, width = steps * x.shape[0], x.shape[2], panel_width(x)
    x_stride, h_stride, dz_stride = work.x.shape[1], work.h.shape[1], work.dz.shape[1]
    dx_stride, sum_stride = work.dx.shape[1], gradients.db.shape[1]

    first_row, end_row = share(depth, member, size)
    multiply(work.dz, first_row * dz_stride, dz_stride, 1, end_row - first_row,
             weights.Wx, 0, columns, (inputs + width - 1) // width,
             work.zeros, 0, 0, work.dx, first_row * dx_stride, dx_stride)  # fmt: skip
    scatter_rows(work.dx, 0, dx_stride, dx, begin, first_row, end_row, 0, inputs)

    panels, column = end_panel - first_panel, first_panel * width
    packed, last_row = column * depth, depth - 1
    pack_rows(work.dz, last_row * dz_stride, -dz_stride, depth, columns, work.dz_panels, first_panel, end_panel)
    multiply(work.x, last_row * x_stride, 1, -x_stride, inputs, work.dz_panels, packed, depth, panels,
             gradients.dWx, column, sum_stride, gradients.dWx, column, sum_stride)  # fmt: skip
    multiply(work.h, last_row * h_stride, 1, -h_stride, hidden, work.dz_panels, packed, depth, panels,
             gradients.dWh, column, sum_stride, gradients.dWh, column, sum_stride)  # fmt: skip
    multiply(work.ones, 0, 0, 0, 1, work.dz_panels, packed, depth, panels,
             gradients.db, column, sum_stride, gradients.db, column, sum_stride)  # fmt: skip
