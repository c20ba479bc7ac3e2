"""What all cells share: the scratch of a chunk of steps, and the phases before and after the recurrence.

A chunk holds `steps * N` time-major rows. All scratch of a pass lies in one flat array; *regions* say where each matrix
of rows begins, and at which stride its rows lie. See `layout` for the order of columns. The members of a team divide
rows where a phase treats them alike, and hidden units, in whole panels, or sequences where it does not. The members
change no order of a sum.
"""

from collections import namedtuple

from rnnkernels.kernels.jit import expanded, plain
from rnnkernels.kernels.layout import (
    PANELS_AT_ONCE,
    copy_row,
    fill_row,
    gather_rows,
    multiply_in_place,
    multiply_transposed_in_place,
    pack_and_add_rows,
    scatter_rows,
    transpose_rows,
    unit_count,
)
from rnnkernels.kernels.micro_kernel import PANEL_GROUPS, SMALL_GROUP, SUM_DEPTH, VECTORS_PER_PANEL, multiply, panel_width
from rnnkernels.kernels.simd import VECTOR_BYTES, lanes
from rnnkernels.kernels.team import share

BUFFER_VECTORS = VECTORS_PER_PANEL * max(SMALL_GROUP, PANEL_GROUPS[-1]) * SUM_DEPTH
"""Vectors that a product in place packs at once."""

Weights = namedtuple("Weights", "Wx Wx_offset Wh Wh_offset packed")
Weights.__doc__ = """Matrices of a pass and where they begin; natural, or packed: by columns forward, transposed backward."""

ForwardRegions = namedtuple("ForwardRegions", "x z product h part parts b b_columns x_stride z_stride h_stride")
ForwardRegions.__doc__ = """Where the scratch of a forward pass lies: biases, a part for each share of the batch, buffers.

A part has the rows of a chunk: inputs, pre-activations, the products h @ Wh of a step where a cell wants them apart,
and hidden states, with those before the chunk in the first rows, which carry the state from call to call. `x` to `h`
count from the beginning of a part, `part` is its size, the first one begins at `parts`. Biases lie in interleaved rows
of `b_columns` from `b` on. Buffers of products in place, one for each member, follow the last part.
"""

BackwardRegions = namedtuple(
    "BackwardRegions",
    "x h dh dz dm dx xT hT zeros dWx dWh db panels buffer member x_stride h_stride dz_stride t_stride b_columns",
)
BackwardRegions.__doc__ = """Where the scratch of a backward pass lies: rows of a chunk, and what `accumulate` needs.

`dz` are the gradients of x @ Wx, `dm` those of h @ Wh, which most cells have in the same place. `h` are previous hidden
states, and those of the last step in spare rows at the end. `dh` has the gradient of the states before the chunk in its
first N rows, and so holds one step more; it carries the gradient from call to call. `xT` and `hT` are the transposes of
`x` and `h`, from the last row to the first; `zeros` is a row as wide as any. `dWx`, `dWh` and `db` are sums in gate
order, each gate padded to whole units; those of matrices are divided in blocks, see `layout`. For each member, `member`
elements apart, `panels` are PANELS_AT_ONCE panels of dz, and `buffer` is for products in place.
"""


@plain
def whole_vectors(columns, lane_count):
    """Columns rounded up to whole vectors."""
    return (columns + lane_count - 1) // lane_count * lane_count


@plain
def row_stride(columns, lane_count):
    """Length of a row of at least `columns` elements, in whole panels.

    Rows a multiple of 512 bytes apart would share few sets of a cache, so these get one panel more.
    """
    width = VECTORS_PER_PANEL * lane_count
    stride = whole_vectors(columns, width)
    return stride if stride % (512 // VECTOR_BYTES * lane_count) > 0 else stride + width


@plain
def forward_regions(rows, chunk, inputs, hidden, gates, biases, z_columns, lane_count):
    """Scratch for parts of so many sequences, chunks of so many steps, and rows of z with so many columns."""
    b_columns = whole_vectors(whole_vectors(hidden, lane_count) * gates, VECTORS_PER_PANEL * lane_count)
    x_stride, z_stride, h_stride = (
        row_stride(inputs, lane_count),
        row_stride(z_columns, lane_count),
        row_stride(hidden, lane_count),
    )
    z = chunk * rows * x_stride
    product = z + chunk * rows * z_stride
    h = product + (biases - 1) * rows * z_stride
    part = h + (chunk + 1) * rows * h_stride
    return ForwardRegions(0, z, product, h, part, biases * b_columns, 0, b_columns, x_stride, z_stride, h_stride)


@plain
def backward_regions(rows, chunk, inputs, hidden, gates, biases, blocked, lane_count):
    """Scratch for so many sequences and chunks of so many steps; sums are in it only if they are `blocked`."""
    width = VECTORS_PER_PANEL * lane_count
    depth, columns = chunk * rows, whole_vectors(hidden, lane_count) * gates
    x_stride, h_stride, dz_stride = (
        row_stride(inputs, lane_count),
        row_stride(hidden, lane_count),
        row_stride(columns, lane_count),
    )
    t_stride = row_stride(depth, lane_count)
    b_columns = whole_vectors(columns, width)
    sum_columns = whole_vectors(columns, PANELS_AT_ONCE * width) if blocked else 0
    h = depth * x_stride
    dh = h + (depth + rows) * h_stride
    dz = dh + (depth + rows) * h_stride
    dm = dz + (biases - 1) * depth * dz_stride
    dx = dm + depth * dz_stride
    xT = dx + depth * x_stride
    hT = xT + whole_vectors(inputs, lane_count) * t_stride
    zeros = hT + whole_vectors(hidden, lane_count) * t_stride
    dWx = zeros + max(x_stride, dz_stride) + PANELS_AT_ONCE * width
    dWh = dWx + inputs * sum_columns
    db = dWh + hidden * sum_columns
    panels = db + biases * b_columns
    buffer = panels + whole_vectors(PANELS_AT_ONCE * depth, lane_count) * width
    member = buffer + BUFFER_VECTORS * lane_count - panels
    return BackwardRegions(0, h, dh, dz, dm, dx, xT, hT, zeros, dWx, dWh, db, panels, buffer, member,
                           x_stride, h_stride, dz_stride, t_stride, b_columns)  # fmt: skip


@expanded
def unit_share(units, member, size):
    """First and end of a member's units; multiples of a panel, as far as there are units."""
    panels = (units + VECTORS_PER_PANEL - 1) // VECTORS_PER_PANEL
    first, end = share(panels, member, size)
    return min(first * VECTORS_PER_PANEL, units), min(end * VECTORS_PER_PANEL, units)


@expanded
def project(work, x, x_stride, rows, depth, weights, hidden, gates, first_unit, end_unit, bias, b, z,
            z_stride, buffer):  # fmt: skip
    """Project: z = b + x @ Wx for some rows and units; overwrites z."""
    if weights.packed:
        column = first_unit * gates * lanes(work)
        multiply(work, x, x_stride, rows,
                 weights.Wx, weights.Wx_offset + column * depth, depth, (end_unit - first_unit) * gates,
                 bias, b + column, 0, work, z, z_stride, False)  # fmt: skip
    else:
        multiply_in_place(work, x, x_stride, rows,
                          weights.Wx, hidden, gates, depth, first_unit * gates, end_unit * gates,
                          bias, b + first_unit * gates * lanes(work), 0, work, z, z_stride, work, buffer)  # fmt: skip


@expanded
def recur(work, h, h_stride, rows, weights, hidden, gates, first_unit, end_unit, source, start, start_stride, z,
          z_stride, descending, buffer):  # fmt: skip
    """Recur: z = start + h @ Wh for the rows of a step and some units, where z and, in `source`, start begin; overwrites z.

    Steps are `descending` by turns, see `multiply`; so it is in `recur_backward`.
    """
    if weights.packed:
        column = first_unit * gates * lanes(work)
        multiply(work, h, h_stride, rows,
                 weights.Wh, weights.Wh_offset + column * hidden, hidden, (end_unit - first_unit) * gates,
                 source, start, start_stride, work, z, z_stride, descending)  # fmt: skip
    else:
        multiply_in_place(work, h, h_stride, rows,
                          weights.Wh, hidden, gates, hidden, first_unit * gates, end_unit * gates,
                          source, start, start_stride, work, z, z_stride, work, buffer)  # fmt: skip


@expanded
def transposed_product(work, dz, dz_stride, rows, matrix, offset, packed, columns, hidden, gates, first, end,
                       start, start_stride, out, out_stride, descending, buffer):  # fmt: skip
    """out = start + dz @ W.T for W (columns, G * H), some rows, and vectors `first .. end` of the columns."""
    if packed:
        depth, column = unit_count(work, hidden) * gates * lanes(work), first * lanes(work)
        multiply(work, dz, dz_stride, rows, matrix, offset + column * depth, depth, end - first,
                 work, start, start_stride, work, out, out_stride, descending)  # fmt: skip
    else:
        multiply_transposed_in_place(work, dz, dz_stride, rows, matrix, columns, hidden, gates, first, end,
                                     work, start, start_stride, work, out, out_stride, work, buffer)  # fmt: skip


@expanded
def recur_backward(work, at, weights, hidden, gates, dm, dh, rows, first_unit, end_unit, descending, buffer):
    """Recur: dh += dm @ Wh.T for the rows of a step and some units."""
    column = first_unit * lanes(work)
    transposed_product(work, dm, at.dz_stride, rows, weights.Wh, weights.Wh_offset, weights.packed, hidden, hidden,
                       gates, first_unit, end_unit, dh + column, at.h_stride, dh + column, at.h_stride,
                       descending, buffer)  # fmt: skip


@expanded
def gather_earlier_gradients(dh, work, at, batch, length, hidden, begin, steps, first_row, end_row,
                             first_unit, end_unit):  # fmt: skip
    """Time-major gradients from outside for the states before a chunk of steps `begin .. begin + steps` and in it.

    The first N rows of `at.dh` hold the complete gradient of the last step on entry. It moves to the last rows; the
    rows before take the part of `dh` (N, T, H) of steps begin - 1 .. begin + steps - 2, zero for step -1, and
    everywhere if there is none. For some sequences and units.
    """
    column, rows = first_unit * lanes(work), end_row - first_row
    width = end_unit * lanes(work) - column
    columns = max(min(hidden - column, width), 0)
    known = 1 if begin == 0 else 0
    is_given = dh.size > 0
    for n in range(first_row, end_row):
        row = at.dh + n * at.h_stride + column
        copy_row(work, row, work, row + steps * batch * at.h_stride, width)
        for s in range(known if is_given else steps):
            fill_row(work, row + s * batch * at.h_stride, width, 0.0)
    if is_given:
        gather_rows(dh, length, hidden, begin - 1 + known, first_row, rows, 0, (steps - known) * rows,
                    work, at.dh + (known * batch + first_row) * at.h_stride, at.h_stride, batch * at.h_stride,
                    column, columns)  # fmt: skip


@expanded
def transpose_chunk(work, at, inputs, hidden, depth, member, size):
    """Write a member's share of the transposes of x and of h."""
    first, end = share(unit_count(work, inputs), member, size)
    transpose_rows(work, at.x + (depth - 1) * at.x_stride, at.x_stride, depth, inputs,
                   work, at.xT, at.t_stride, first, end)  # fmt: skip
    first, end = share(unit_count(work, hidden), member, size)
    transpose_rows(work, at.h + (depth - 1) * at.h_stride, at.h_stride, depth, hidden,
                   work, at.hT, at.t_stride, first, end)  # fmt: skip


@expanded
def accumulate(work, at, weights, dx, dWx, dWh, length, begin, steps, batch, inputs, hidden, gates, apart, blocked,
               is_first, member, size):  # fmt: skip
    """Add the gradients of a chunk: dWx += x.T @ dz, dWh += h.T @ dm, db += sum of dz; and dx = dz @ Wx.T, overwritten.

    A member takes its share of the panels of the sums and of the rows of dx. Sums start from zero if `is_first`. Sums
    over rows run backward in time-major order, in parts of SUM_DEPTH rows of a chunk; so do the chunks. Sums that are
    not `blocked` go straight to the rows of `dWx` and `dWh`, whose columns are in gate order where no gate is padded.
    """
    width = panel_width(work)
    depth, columns = steps * batch, gates * unit_count(work, hidden) * lanes(work)
    own = member * at.member

    first_row, end_row = share(depth, member, size)
    transposed_product(work, at.dz + first_row * at.dz_stride, at.dz_stride, end_row - first_row,
                       weights.Wx, weights.Wx_offset, weights.packed, inputs, hidden, gates,
                       0, unit_count(work, inputs), at.zeros, 0, at.dx + first_row * at.x_stride, at.x_stride,
                       False, at.buffer + own)  # fmt: skip
    scatter_rows(work, at.dx, at.x_stride, batch * at.x_stride, dx, length, inputs, begin, 0, batch,
                 first_row, end_row, 0, inputs)  # fmt: skip

    first_panel, end_panel = share((columns + width - 1) // width, member, size)
    panel = first_panel
    while panel < end_panel:
        panels = panels_together(panel, end_panel)
        pack_and_add_rows(work, at.dz + (depth - 1) * at.dz_stride, at.dz_stride, depth, columns, gates, panel, panels,
                          work, at.panels + own, work, at.db, is_first)  # fmt: skip
        add_product(work, at, at.xT, inputs, at.panels + own, depth, columns, at.dWx, dWx, blocked, panel, panels,
                    is_first)  # fmt: skip
        if apart:
            pack_and_add_rows(work, at.dm + (depth - 1) * at.dz_stride, at.dz_stride, depth, columns, gates, panel,
                              panels, work, at.panels + own, work, at.db + at.b_columns, is_first)  # fmt: skip
        add_product(work, at, at.hT, hidden, at.panels + own, depth, columns, at.dWh, dWh, blocked, panel, panels,
                    is_first)  # fmt: skip
        panel += panels


@expanded
def add_product(work, at, a, rows, b, depth, columns, sums, gradient, blocked, panel, panels, is_first):
    """Total += A @ B for `rows` rows and some panels of columns in one block; `total` starts from zero if `is_first`."""
    width = panel_width(work)
    if blocked:
        stride = PANELS_AT_ONCE * width
        here = sums + panel // PANELS_AT_ONCE * rows * stride + panel % PANELS_AT_ONCE * width
        s0, start_stride = (at.zeros, 0) if is_first else (here, stride)
        multiply(work, a, at.t_stride, rows, work, b, depth, panels * VECTORS_PER_PANEL,
                 work, s0, start_stride, work, here, stride, False)  # fmt: skip
    else:
        here = panel * width
        vectors = min(panels * VECTORS_PER_PANEL, (columns - here) // lanes(work))
        if is_first:
            multiply(work, a, at.t_stride, rows, work, b, depth, vectors,
                     work, at.zeros, 0, gradient, here, columns, False)  # fmt: skip
        else:
            multiply(work, a, at.t_stride, rows, work, b, depth, vectors,
                     gradient, here, columns, gradient, here, columns, False)  # fmt: skip


@expanded
def panels_together(panel, end_panel):
    """How many panels `add_product` takes from `panel` on: those of the same block, before `end_panel`."""
    return min(PANELS_AT_ONCE - panel % PANELS_AT_ONCE, end_panel - panel)
