"""The affine layer on rows: out = b + x @ w, and its gradients.

    dx = dout @ w.T,  dw = x.T @ dout,  db = sum of dout                        (1)

Results have natural columns. Whole panels of a product go straight to the result, the last part of a panel by way of
a block of scratch rows. Parts of the work do not depend on one another; members of a team take them in turn.
"""

from rnnkernels.kernels.jit import expanded, kernel
from rnnkernels.kernels.layout import PANELS_AT_ONCE, copy_row, pack_and_add_rows, transpose_rows, unit_count
from rnnkernels.kernels.micro_kernel import VECTORS_PER_PANEL, multiply, panel_width
from rnnkernels.kernels.phases import panels_together
from rnnkernels.kernels.team import leave_team, open_to_members, share, take_part


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
