"""The affine layer on rows: out = b + x @ w, and its gradients.

    dx = dout @ w.T,  dw = x.T @ dout,  db = sum of dout                        (1)

Results have natural columns. Whole panels of a product go straight to the result, the last part of a panel by way of
a block of scratch rows. Parts of the work do not depend on one another; members of a team take them in turn.

A small call is one kernel on one thread, which reads all arrays where they lie, or copies a block of a matrix that many
rows will use. Its sums have the same order, and so the same bits.
"""

import numpy as np

from rnnkernels.kernels.in_place import columns_at_once, multiply_part
from rnnkernels.kernels.jit import EntryPoints, expanded, inlined, kernel
from rnnkernels.kernels.layout import (
    PANELS_AT_ONCE,
    copy_row,
    copy_row_padded,
    fill_row,
    pack_and_add_rows,
    transpose_rows,
    unit_count,
)
from rnnkernels.kernels.micro_kernel import SUM_DEPTH, VECTORS_PER_PANEL, multiply, panel_width
from rnnkernels.kernels.simd import lanes, load, load_first, splat, store_first, transpose_block, transpose_edge
from rnnkernels.kernels.team import leave_team, open_to_members, share, take_part

FEW_ROWS = 8
"""Rows of a product up to which a block of the other matrix is read where it lies, and not copied together."""

BLOCK_ROWS = 32
"""Rows of a product that use a block while it is near, and lie in as many pages of memory."""


@inlined
def multiply_natural(a, a0, a_stride, a_step, rows, b, b0, b_stride, depth, columns, start, start0, c, scratch):
    """C = S + A @ B for a whole product of natural rows; overwrites `c` and `scratch`.

    The scratch holds a block of B and a row of sums to start from: (SUM_DEPTH + 1) * ROW_VECTORS vectors. S is one row
    at `start0`, zero where that is negative. Strides and steps may be negative.
    """
    group = columns_at_once(a, rows)
    first = SUM_DEPTH * group
    for row in range(0, rows, BLOCK_ROWS):
        count, a_row, c_row = min(BLOCK_ROWS, rows - row), a0 + row * a_stride, row * columns
        for k in range(0, max(depth, 1), SUM_DEPTH):
            part = min(SUM_DEPTH, depth - k)
            for column in range(0, columns, group):
                left = min(group, columns - column)
                lines, here, stride = b, b0 + k * b_stride + column, b_stride
                if rows > FEW_ROWS:
                    for line in range(part):
                        copy_row_padded(b, here + line * b_stride, scratch, line * group, left)
                    lines, here, stride = scratch, 0, group
                sums, sums0, sums_stride = c, c_row + column, columns
                if k == 0:
                    sums, sums0, sums_stride = scratch, first, 0
                    if start0 < 0:
                        fill_row(scratch, first, group, 0.0)
                    else:
                        copy_row_padded(start, start0 + column, scratch, first, left)
                multiply_part(a, a_row + k * a_step, a_stride, a_step, count, lines, here, stride, part,
                              sums, sums0, sums_stride, c, c_row + column, columns, left)  # fmt: skip


@kernel
def affine_forward_alone(x, w, b, out, scratch):
    """Affine rows, out = b + x @ w, for all rows of `x` (rows, D); overwrites `out` and `scratch`."""
    rows, depth, columns = x.shape[0], w.shape[0], w.shape[1]
    multiply_natural(x, 0, depth, 1, rows, w, 0, columns, depth, columns, b, 0, out, scratch)


@kernel
def affine_backward_alone(x, w, dout, dx, dw, db, scratch):
    """Equation (1) for all rows; overwrites the gradients and `scratch`.

    The sums over rows go from the last row to the first.
    """
    rows, inputs, columns = x.shape[0], x.shape[1], dout.shape[1]
    input_gradient(w, dout, rows, dx, scratch)
    last = (rows - 1) * inputs
    multiply_natural(x, last, 1, -inputs, inputs, dout, (rows - 1) * columns, -columns, rows, columns,
                     db, -1, dw, scratch)  # fmt: skip
    sum_rows(dout, rows, db)


@inlined
def input_gradient(w, dout, rows, dx, scratch):
    """Product dx = dout @ w.T of so many rows, a block of w.T at a time."""
    inputs, columns = w.shape
    step, group = lanes(dx), columns_at_once(dx, rows)
    zeros = SUM_DEPTH * group
    fill_row(scratch, zeros, group, 0.0)
    for column in range(0, inputs, group):
        left = min(group, inputs - column)
        for k in range(0, max(columns, 1), SUM_DEPTH):
            part = min(SUM_DEPTH, columns - k)
            for v in range(0, left, step):
                for line in range(0, part, step):
                    source, target = (column + v) * columns + k + line, line * group + v
                    if left - v >= step and part - line >= step:
                        transpose_block(w, source, columns, scratch, target, group)
                    else:
                        transpose_edge(w, source, columns, left - v, part - line,
                                  scratch, target, group, min(step, part - line), step)  # fmt: skip
            if k > 0:
                multiply_part(dout, k, columns, 1, rows, scratch, 0, group, part,
                              dx, column, inputs, dx, column, inputs, left)  # fmt: skip
            else:
                multiply_part(dout, 0, columns, 1, rows, scratch, 0, group, part,
                              scratch, zeros, 0, dx, column, inputs, left)  # fmt: skip


@inlined
def sum_rows(rows, count, total):
    """Sum of so many rows, from the last to the first in parts of SUM_DEPTH; overwrites `total`."""
    columns = rows.shape[1]
    step = lanes(rows)
    for column in range(0, columns, step):
        left = columns - column
        sums = splat(rows, 0.0)
        for k in range(0, count, SUM_DEPTH):
            part = splat(rows, 0.0)
            for r in range(count - 1 - k, max(count - 1 - k - SUM_DEPTH, -1), -1):
                here = r * columns + column
                part = part + (load(rows, here) if left >= step else load_first(rows, here, left))
            sums = sums + part
        store_first(total, column, left, sums)


def _matrices(dtype, count):
    return (np.zeros((1, 1), dtype),) * count


FORWARD_ALONE = EntryPoints(
    affine_forward_alone, lambda dtype: (*_matrices(dtype, 2), np.zeros(1, dtype), *_matrices(dtype, 2))
)
BACKWARD_ALONE = EntryPoints(
    affine_backward_alone, lambda dtype: (*_matrices(dtype, 5), np.zeros(1, dtype), *_matrices(dtype, 1))
)


@kernel
def affine_forward(x, weights, start, out, edge, team, member, begin, end, block):
    """Affine rows, out = start + x @ w for rows `begin .. end`, in parts of `block` rows; overwrites them.

    `weights` are the panels of w, `start` (1, columns) is the bias in whole panels; `edge` is scratch for `block` rows
    of one panel for each member.
    """
    depth, columns = x.shape[1], out.shape[1]
    width = panel_width(x)
    whole = columns // width
    parts = (end - begin + block - 1) // block
    edge0 = member * edge.shape[1]
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        row = begin + part * block
        rows = min(block, end - row)
        multiply(x, row * depth, depth, rows, weights, 0, depth, whole * VECTORS_PER_PANEL,
                 start, 0, 0, out, row * columns, columns, False)  # fmt: skip
        if whole * width < columns:
            left = unit_count(x, columns - whole * width)
            multiply(x, row * depth, depth, rows, weights, whole * depth * width, depth, left,
                     start, whole * width, 0, edge, edge0, width, False)  # fmt: skip
            for r in range(rows):
                copy_row(edge, edge0 + r * width, out, (row + r) * columns + whole * width, columns - whole * width)
        part = take_part(team)
    leave_team(team, member)


@expanded
def panels_together(panel, end_panel):
    """How many panels are multiplied together from `panel` on: those of the same block, before `end_panel`."""
    return min(PANELS_AT_ONCE - panel % PANELS_AT_ONCE, end_panel - panel)


@kernel
def affine_accumulate(x, dout, dw, db, xT, panels, zeros, team, member, begin, end, block, parts):
    """Dw += x.T @ dout and db += sum of dout over rows `end - 1 .. begin`, in parts of columns; equation (1).

    `dw` (D rows in blocks) and `db` (1, columns) have columns in whole panels and start from zero with the last row.
    `xT` and `panels` are scratch of each member: the transpose of `block` rows of x, and PANELS_AT_ONCE panels of as
    many rows of dout.
    """
    inputs, columns = x.shape[1], dout.shape[1]
    count = (columns + panel_width(x) - 1) // panel_width(x)
    own, panel0 = xT[member], member * panels.shape[1]
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first_panel, end_panel = share(count, part, parts)
        stop = end
        while stop > begin:
            rows = min(block, stop - begin)
            first = stop == x.shape[0]
            transpose_rows(x, (stop - 1) * inputs, inputs, rows, inputs, own, 0, own.shape[1], 0, unit_count(x, inputs))
            panel = first_panel
            while panel < end_panel:
                together = panels_together(panel, end_panel)
                pack_and_add_rows(dout, (stop - 1) * columns, columns, rows, columns, 1, panel, together,
                                  panels, panel0, db, 0, first)  # fmt: skip
                add_block_product(own, inputs, panels, panel0, rows, dw, panel, together, zeros, first)
                panel += together
            stop -= rows
        part = take_part(team)
    leave_team(team, member)


@expanded
def add_block_product(a, rows, b, b0, depth, total, panel, panels, zeros, first):
    """Total += A @ B for `rows` rows and some panels of columns in one block; `total` starts from zero if `first`."""
    stride, width = total.shape[1], panel_width(a)
    here = panel // PANELS_AT_ONCE * rows * stride + panel % PANELS_AT_ONCE * width
    if first:
        multiply(
            a, 0, a.shape[1], rows, b, b0, depth, panels * VECTORS_PER_PANEL, zeros, 0, 0, total, here, stride, False
        )
    else:
        multiply(a, 0, a.shape[1], rows, b, b0, depth, panels * VECTORS_PER_PANEL,
                 total, here, stride, total, here, stride, False)  # fmt: skip
