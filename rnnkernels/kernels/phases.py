"""What all cells share: the workspaces of a chunk of steps, and the phases before and after the recurrence.

A chunk holds `steps * rows` time-major rows. Each row matrix of a workspace is an array of shape (rows, stride) whose
rows are padded; see `layout` for the order of columns.
"""

from collections import namedtuple

from rnnkernels.kernels.jit import kernel
from rnnkernels.kernels.layout import copy_row, fill_row, gather_steps, pack_rows, scatter_steps
from rnnkernels.kernels.micro_kernel import multiply, panel_width

ForwardWeights = namedtuple("ForwardWeights", "Wx Wh b")
ForwardWeights.__doc__ = """Packed by columns: panels of Wx (depth D) and Wh (depth H), and the bias in one row."""

BackwardWeights = namedtuple("BackwardWeights", "Wx Wh")
BackwardWeights.__doc__ = """Packed transposes: panels of Wx.T and Wh.T, of interleaved depth."""

WeightGradients = namedtuple("WeightGradients", "dWx dWh db")
WeightGradients.__doc__ = """Row matrices of interleaved columns with D, H and one row; accumulated."""

ForwardWorkspace = namedtuple("ForwardWorkspace", "x z h")
ForwardWorkspace.__doc__ = """Rows of a chunk: inputs, pre-activations, hidden states.

`h` has the states before the chunk in its first `rows` rows, and so holds one step more; it carries the state from
call to call.
"""

BackwardWorkspace = namedtuple("BackwardWorkspace", "x h dh dz dx dz_panels ones zeros")
BackwardWorkspace.__doc__ = """Rows of a chunk: inputs, previous hidden states, gradients; and what `accumulate` needs.

`ones` is a single one, `zeros` a row of zeros as wide as `dx`. `dh` has the gradient of the states before the chunk in
its first `rows` rows, and so holds one step more; it carries the gradient from call to call.
"""


@kernel
def project(x, weights, work, first, rows, begin, steps, panels):
    """Project: z = b + x @ Wx for the rows of a chunk; overwrites `work.x` and `work.z`."""
    gather_steps(x, first, rows, begin, steps, work.x, 0, work.x.shape[1])
    multiply(work.x, 0, work.x.shape[1], 1, steps * rows, weights.Wx, 0, x.shape[2], panels,
             weights.b, 0, 0, work.z, 0, work.z.shape[1])  # fmt: skip


@kernel
def gather_earlier_gradients(dh, target, first, rows, begin, steps):
    """Time-major gradients from outside for the states before a chunk of steps `begin .. begin + steps` and in it.

    The first rows of `target` hold the complete gradient of the last step on entry. It moves to the last rows; the
    rows before take the part of `dh` (N, T, H) of steps begin - 1 .. begin + steps - 2, zero for step -1.
    """
    stride = target.shape[1]
    copy_row(target, 0, target, steps * rows * stride, rows * stride)
    if begin > 0:
        gather_steps(dh, first, rows, begin - 1, steps, target, 0, stride)
    else:
        fill_row(target, 0, rows * stride, 0.0)
        gather_steps(dh, first, rows, 0, steps - 1, target, rows * stride, stride)


@kernel
def accumulate(x, weights, dx, gradients, work, first, rows, begin, steps, hidden, columns):
    """Add the gradients of a chunk: dWx += x.T @ dz, dWh += h.T @ dz, db += sum of dz; and dx = dz @ Wx.T, overwritten.

    The sums over rows run in time-major order of the chunk.
    """
    depth, inputs = steps * rows, x.shape[2]
    width = panel_width(x)
    x_stride, h_stride, dz_stride = work.x.shape[1], work.h.shape[1], work.dz.shape[1]
    dx_stride, sum_stride = work.dx.shape[1], gradients.db.shape[1]

    multiply(work.dz, 0, dz_stride, 1, depth, weights.Wx, 0, columns, (inputs + width - 1) // width,
             work.zeros, 0, 0, work.dx, 0, dx_stride)  # fmt: skip
    scatter_steps(work.dx, 0, dx_stride, dx, first, rows, begin, steps)

    panels = (columns + width - 1) // width
    pack_rows(work.dz, 0, dz_stride, depth, columns, work.dz_panels)
    gather_steps(x, first, rows, begin, steps, work.x, 0, x_stride)
    multiply(work.x, 0, 1, x_stride, inputs, work.dz_panels, 0, depth, panels,
             gradients.dWx, 0, sum_stride, gradients.dWx, 0, sum_stride)  # fmt: skip
    multiply(work.h, 0, 1, h_stride, hidden, work.dz_panels, 0, depth, panels,
             gradients.dWh, 0, sum_stride, gradients.dWh, 0, sum_stride)  # fmt: skip
    multiply(work.ones, 0, 0, 0, 1, work.dz_panels, 0, depth, panels,
             gradients.db, 0, sum_stride, gradients.db, 0, sum_stride)  # fmt: skip
