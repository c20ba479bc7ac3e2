"""The affine layer on rows: out = b + x @ w, and its gradients.

    dx = dout @ w.T,  dw = x.T @ dout,  db = sum of dout                        (1)

Results have natural columns. Whole panels of a product go straight to the result, the last part of a panel by way of
a block of scratch rows.
"""

from rnnkernels.kernels.jit import kernel
from rnnkernels.kernels.layout import copy_row, pack_rows
from rnnkernels.kernels.micro_kernel import multiply, panel_width


@kernel
def affine_forward(x, weights, start, out, edge, begin, end, block):
    """Affine rows, out = start + x @ w for rows `begin .. end`, in blocks of rows; overwrites them.

    `weights` are the panels of w, `start` (1, columns) is the bias in whole panels; `edge` is scratch for `block` rows
    of one panel.
    """
    depth, columns = x.shape[1], out.shape[1]
    width = panel_width(x)
    whole = columns // width
    for row in range(begin, end, block):
        rows = min(block, end - row)
        multiply(x, row * depth, depth, 1, rows, weights, 0, depth, whole,
                 start, 0, 0, out, row * columns, columns)  # fmt: skip
        if whole * width < columns:
            multiply(x, row * depth, depth, 1, rows, weights, whole * depth * width, depth, 1,
                     start, whole * width, 0, edge, 0, width)  # fmt: skip
            for r in range(rows):
                copy_row(edge, r * width, out, (row + r) * columns + whole * width, columns - whole * width)


@kernel
def affine_accumulate(x, dout, dw, db, panels, ones, begin, end, block):
    """Dw += x.T @ dout and db += sum of dout over rows `begin .. end`, in order of the rows; equation (1).

    `dw` (D, columns) and `db` (1, columns) have columns in whole panels; `panels` is scratch for `block` packed rows.
    """
    depth, columns = x.shape[1], dout.shape[1]
    stride, count = dw.shape[1], (columns + panel_width(x) - 1) // panel_width(x)
    for row in range(begin, end, block):
        rows = min(block, end - row)
        pack_rows(dout, row * columns, columns, rows, columns, panels, 0, count)
        multiply(x, row * depth, 1, depth, depth, panels, 0, rows, count, dw, 0, stride, dw, 0, stride)
        multiply(ones, 0, 0, 0, 1, panels, 0, rows, count, db, 0, stride, db, 0, stride)
