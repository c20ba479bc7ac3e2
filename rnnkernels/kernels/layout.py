"""Copies between the callers' layouts and the kernels': packing of weights, gathering and scattering of rows.

Four layouts exist inside the package (G gates, L lanes of a vector, U = ceil(H / L) units of L hidden units):

panels
    A weight matrix as `micro_kernel` reads it.
interleaved columns
    Column (u, q, l) of U x G x L holds gate q of hidden unit u * L + l: all gates of a unit lie side by side. Columns
    of padding units are zero, and stay zero through both passes. With G = 1 this is the natural order.
blocks
    A weight gradient while it is summed: all rows of the first few panels of columns, then those of the next, so that
    tile after tile adds to what follows in memory. Rows of a whole matrix would lie pages apart.
time-major rows
    Row s * N + n of a chunk holds step s of sequence n.

Offsets and strides count elements; arrays are flat or C-contiguous.
"""

from rnnkernels.kernels.jit import expanded, inlined, kernel
from rnnkernels.kernels.micro_kernel import SUM_DEPTH, panel_width
from rnnkernels.kernels.simd import lanes, load, load_first, splat, store, store_first, transpose_block
from rnnkernels.kernels.team import leave_team, open_to_members, share, take_part

ROWS_AT_ONCE = 8
"""Rows of weights packed together: few enough that their lines stay in a cache while the next vector is taken. Between
two calls that had driven them from the near caches, 256 x 1024 and 512 x 2048 weights in float32 took 0.09 and 0.35 ms
with 8, 0.10 and 0.38 with 4, 0.11 and 0.43 with 16 (AMD EPYC, Zen 4)."""


@expanded
def unit_count(like, hidden):
    """U, the units of L hidden units that hold `hidden` of them."""
    return (hidden + lanes(like) - 1) // lanes(like)


@inlined
def copy_row(source, source_offset, target, target_offset, count):
    """Copy `count` elements."""
    step = lanes(target)
    whole = count - count % step
    for i in range(0, whole, step):
        store(target, target_offset + i, load(source, source_offset + i))
    if whole < count:
        rest = load_first(source, source_offset + whole, count - whole)
        store_first(target, target_offset + whole, count - whole, rest)


@inlined
def copy_row_padded(source, source_offset, target, target_offset, count):
    """Copy `count` elements and fill the last vector of the target with zeros."""
    step = lanes(target)
    for i in range(0, count, step):
        store(target, target_offset + i, load_first(source, source_offset + i, count - i))


@inlined
def clear_padding(row, offset, hidden, gates):
    """Set the padding of a row of interleaved columns to zero: infinity times a zero weight has left NaN there."""
    step = lanes(row)
    count = hidden % step
    if count > 0:
        last_unit = offset + (hidden - count) * gates
        for i in range(last_unit, last_unit + gates * step, step):
            store(row, i, load_first(row, i, count))


@inlined
def fill_row(target, target_offset, count, number):
    """Set `count` elements to `number`."""
    value, step = splat(target, number), lanes(target)
    whole = count - count % step
    for i in range(0, whole, step):
        store(target, target_offset + i, value)
    if whole < count:
        store_first(target, target_offset + whole, count - whole, value)


@kernel
def gather_rows(source, begin, first_row, rows, first, end, target, target_offset, stride, step_stride,
                column, columns):  # fmt: skip
    """Time-major rows of `source` (N, T, D): sequences `first_row .. first_row + rows`, from step `begin` on.

    Overwrites `columns` columns from `column` on of rows `first .. end` of these in `target`, rounded up to LANES with
    zeros. In `target` sequences lie at `stride`, steps at `step_stride`.
    """
    length, width = source.shape[1], source.shape[2]
    for row in range(first, end):
        s, n = row // rows, row % rows
        here = ((first_row + n) * length + begin + s) * width + column
        copy_row_padded(source, here, target, target_offset + s * step_stride + n * stride + column, columns)


@kernel
def scatter_rows(source, source_offset, stride, step_stride, target, begin, first_row, rows, first, end,
                 column, columns):  # fmt: skip
    """The inverse of `gather_rows`: overwrites these rows and columns of `target` (N, T, D)."""
    length, width = target.shape[1], target.shape[2]
    for row in range(first, end):
        s, n = row // rows, row % rows
        here = source_offset + s * step_stride + n * stride + column
        copy_row(source, here, target, ((first_row + n) * length + begin + s) * width + column, columns)


@kernel
def pack_columns(weights, gates, panels, team, member, parts):
    """Pack `weights` (K, G * H) in panels of interleaved columns; overwrites `panels`, by members of a team.

    A few rows at a time: whole rows would touch a page of memory for each vector, whole panels one for each line. And
    gate by gate, so that the rows are read from one end to the other.
    """
    depth, hidden = weights.shape[0], weights.shape[1] // gates
    step, width = lanes(weights), panel_width(weights)
    vectors = panels.shape[0] * (width // step)
    zero = splat(weights, 0.0)
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(depth, part, parts)
        for begin in range(first, last, ROWS_AT_ONCE):
            end = min(begin + ROWS_AT_ONCE, last)
            for gate in range(gates):
                for v in range(gate, vectors, gates):
                    unit = v // gates
                    target = v * step // width * depth * width + v * step % width
                    left = hidden - unit * step
                    for k in range(begin, end):
                        source = (k * gates + gate) * hidden + unit * step
                        if left >= step:
                            store(panels, target + k * width, load(weights, source))
                        elif left > 0:
                            store(panels, target + k * width, load_first(weights, source, left))
                        else:
                            store(panels, target + k * width, zero)
        part = take_part(team)
    leave_team(team, member)


@kernel
def pack_transposed(weights, gates, panels, team, member, parts):
    """Pack the transpose of `weights` (K, G * H): depth of interleaved columns, K columns; overwrites `panels`.

    The depth is that of `panels`: U * G * L, or H without padding if G = 1. By members of a team.
    """
    columns, hidden = weights.shape[0], weights.shape[1] // gates
    step, width = lanes(weights), panel_width(weights)
    depth = panels.shape[1] // width
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(panels.shape[0], part, parts)
        for v in range(first * (width // step), last * (width // step)):
            here = columns - v * step
            for gate in range(gates):
                for unit in range((hidden + step - 1) // step):
                    row = (unit * gates + gate) * step
                    source = (v * step * gates + gate) * hidden + unit * step
                    target = (v * step // width * depth + row) * width + v * step % width
                    if here >= step and hidden - unit * step >= step:
                        transpose_block(weights, source, gates * hidden, panels, target, width)
                    else:
                        pack_edge(weights, source, gates * hidden, here, hidden - unit * step,
                                  panels, target, width, min(step, depth - row))  # fmt: skip
        part = take_part(team)
    leave_team(team, member)


@kernel
def unpack_sums(sums, gates, gradient, team, member, parts):
    """Copy `sums`, blocks of columns in gate order, to natural rows (K, G * H), by members of a team."""
    rows, hidden = gradient.shape[0], gradient.shape[1] // gates
    step, block = lanes(sums), sums.shape[1]
    units = unit_count(sums, hidden)
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(rows, part, parts)
        for k in range(first, last):
            for v in range(gates * units):
                gate, unit, column = v // units, v % units, v * step
                copy_row(sums, (column // block * rows + k) * block + column % block,
                         gradient, (k * gates + gate) * hidden + unit * step,
                         min(step, hidden - unit * step))  # fmt: skip
        part = take_part(team)
    leave_team(team, member)


@kernel
def pack_edge(source, offset, stride, rows, columns, target, target_offset, target_stride, lines):
    """Transpose a block of which only some rows and columns exist; overwrites `lines` lines of LANES elements."""
    step = lanes(source)
    flat, packed = source.reshape(-1), target.reshape(-1)
    for line in range(lines):
        for r in range(step):
            inside = line < columns and r < rows
            packed[target_offset + line * target_stride + r] = flat[offset + r * stride + line] if inside else 0.0


@kernel
def transpose_rows(source, last_row, depth, columns, target, first, end):
    """Transpose `depth` rows that end with `last_row`, from the last to the first; overwrites rows of `target`.

    Of the `columns` columns, those in vectors `first .. end`. Rows of `target` have room for whole vectors.
    """
    step, source_stride, target_stride = lanes(source), source.shape[1], target.shape[1]
    for column in range(first * step, end * step, step):
        for k in range(0, depth, step):
            here, there = (last_row - k) * source_stride + column, column * target_stride + k
            if depth - k >= step and columns - column >= step:
                transpose_block(source, here, -source_stride, target, there, target_stride)
            else:
                pack_edge(source, here, -source_stride, depth - k, columns - column,
                          target, there, target_stride, step)  # fmt: skip


@kernel
def pack_and_add_rows(source, last_row, depth, columns, gates, panel, count, panels, target, sums, first):
    """Pack `count` panels of `depth` rows that end with `last_row`, from the last to the first, columns in gate order.

    Overwrites `panels` from `target` on, and adds the rows to the panels' columns in `sums`, which start from zero if
    `first`; in parts of SUM_DEPTH rows, as products are summed. The source has `columns` columns, interleaved.
    """
    step, width, stride = lanes(source), panel_width(source), source.shape[1]
    units = (columns + gates * step - 1) // (gates * step)
    vectors = width // step
    for v in range(count * vectors):
        vector = panel * vectors + v
        column = (vector % units * gates + vector // units) * step
        left = columns - column if vector < gates * units else 0
        total = splat(source, 0.0) if first else load(sums, vector * step)
        here, there = last_row * stride + column, target + v // vectors * depth * width + v % vectors * step
        for k in range(0, depth, SUM_DEPTH):
            part = splat(source, 0.0)
            for _ in range(k, min(k + SUM_DEPTH, depth)):
                line = load(source, here) if left >= step else load_first(source, here, left)
                store(panels, there, line)
                part = part + line
                here -= stride
                there += width
            total = total + part
        store(sums, vector * step, total)


@kernel
def interleave_row(source, gates, target):
    """One natural row (G * H,) in interleaved order, padded with zeros; overwrites `target`."""
    hidden = source.size // gates
    step = lanes(source)
    for v in range(target.size // step):
        unit, gate = v // gates, v % gates
        left = max(hidden - unit * step, 0)
        store(target, v * step, load_first(source, gate * hidden + min(unit * step, hidden), left))
