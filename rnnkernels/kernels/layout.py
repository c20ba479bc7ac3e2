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
    Those of a chunk hold its first step of all sequences, then the next step of all that have one, and so on.
    Sequences that are longer come first, so that those that have a step are the first ones.

Offsets and strides count elements; arrays are flat or C-contiguous, and nothing is inferred from their shapes but by
the kernels that pack and unpack.
"""

from rnnkernels.kernels.jit import expanded, inlined, kernel, plain
from rnnkernels.kernels.linking import shared
from rnnkernels.kernels.micro_kernel import (
    PANEL_GROUPS,
    SUM_DEPTH,
    VECTORS_PER_PANEL,
    panel_width,
)
from rnnkernels.kernels.simd import (
    lanes,
    load,
    load_first,
    splat,
    store,
    store_first,
    transpose_block,
    transpose_edge,
    without_tiny,
)
from rnnkernels.kernels.team import leave_team, open_to_members, share, take_part

ROWS_AT_ONCE = 8
"""Rows of weights packed together: few enough that their lines stay in a cache while the next vector is taken. Between
two calls that had driven them from the near caches, 256 x 1024 and 512 x 2048 weights in float32 took 0.09 and 0.35 ms
with 8, 0.10 and 0.38 with 4, 0.11 and 0.43 with 16 (AMD EPYC, Zen 4)."""

PANELS_AT_ONCE = PANEL_GROUPS[-1]
"""Panels of dz for which the weight gradients of a chunk are summed together: as many as a full tile takes. On an AMD
EPYC (Zen 4), where it takes two, one at a time made these products alone 4 to 14 % slower, and whole backward
passes by less than the noise at large batches (float32, 24 November 2026)."""


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
def add_row(source, source_offset, target, target_offset, count):
    """Add `count` elements; what follows them in the last vector of the target may change by the sign of a zero."""
    step = lanes(target)
    for i in range(0, count, step):
        total = load(target, target_offset + i) + load_first(source, source_offset + i, count - i)
        store(target, target_offset + i, total)


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
def drop_tiny(row, offset, count):
    """Set what is tiny in so many whole vectors to zero."""
    for i in range(offset, offset + count, lanes(row)):
        store(row, i, without_tiny(load(row, i)))


@inlined
def fill_row(target, target_offset, count, number):
    """Set `count` elements to `number`."""
    value, step = splat(target, number), lanes(target)
    whole = count - count % step
    for i in range(0, whole, step):
        store(target, target_offset + i, value)
    if whole < count:
        store_first(target, target_offset + whole, count - whole, value)


@plain
def active_rows(spans, first_row, rows, step):
    """Of `rows` sequences from `first_row` on, which end one after the other, the first ones that have a step."""
    while rows > 0 and spans[1, first_row + rows - 1] <= step:
        rows -= 1
    return rows


@shared("source target", "spans")
def gather_rows(source, width, spans, batch, onward, first_row, rows, begin, first, end, target, target_offset,
                stride):  # fmt: skip
    """Time-major rows of `source` (rows, width): sequences from `first_row` on, `rows` of which have step `begin`.

    Overwrites rows `first .. end` of these in `target`, rounded up to LANES with zeros. See `Spans` for the others.
    """
    step, below = begin, 0
    for row in range(first, end):
        while row >= below + rows:
            below += rows
            step += 1
            while rows > 0 and spans[batch + first_row + rows - 1] <= step:
                rows -= 1
        here = spans[first_row + row - below] + onward * step
        copy_row_padded(source, here * width, target, target_offset + row * stride, width)


@shared("source target", "spans")
def scatter_rows(source, source_offset, stride, target, width, spans, batch, onward, first_row, rows, begin, first, end,
                 column, columns):  # fmt: skip
    """The inverse of `gather_rows`, for some columns: overwrites these of the rows of `target` (rows, width)."""
    step, below = begin, 0
    for row in range(first, end):
        while row >= below + rows:
            below += rows
            step += 1
            while rows > 0 and spans[batch + first_row + rows - 1] <= step:
                rows -= 1
        here = spans[first_row + row - below] + onward * step
        copy_row(source, source_offset + row * stride + column, target, here * width + column, columns)


@shared("weights panels")
def pack_lines(weights, w0, stride, hidden, gates, first, end, vectors, panels, depth):
    """Lines `first .. end` of the panels of `weights` (depth, G * H), so many vectors of interleaved columns.

    Overwrites these lines. A few rows at a time: whole rows would touch a page of memory for each vector, whole panels
    one for each line.
    """
    step, width = lanes(weights), panel_width(weights)
    zero = splat(weights, 0.0)
    for begin in range(first, end, ROWS_AT_ONCE):
        stop = min(begin + ROWS_AT_ONCE, end)
        unit, gate = 0, 0
        for v in range(vectors):
            target = v * step // width * depth * width + v * step % width
            left = hidden - unit * step
            for k in range(begin, stop):
                source = w0 + k * stride + gate * hidden + unit * step
                if left >= step:
                    store(panels, target + k * width, load(weights, source))
                elif left > 0:
                    store(panels, target + k * width, load_first(weights, source, left))
                else:
                    store(panels, target + k * width, zero)
            gate += 1
            if gate == gates:
                unit, gate = unit + 1, 0


@shared("weights panels")
def pack_transposed_lines(weights, w0, stride, columns, hidden, gates, first, end, first_line, end_line,
                          panels, offset, depth):  # fmt: skip
    """Vectors `first .. end` of columns of the transpose of `weights` (columns, G * H), which has interleaved lines.

    Of their lines those in vectors `first_line .. end_line`. Overwrites these from `offset` on, in panels of `depth`
    lines, as if nothing came before.
    """
    step, width = lanes(weights), panel_width(weights)
    for v in range(first, end):
        here = columns - v * step
        panel = offset + (v - first) * step // width * depth * width + (v - first) * step % width
        unit, gate = first_line // gates, first_line % gates
        for line in range(first_line, end_line):
            row = (line - first_line) * step
            left = hidden - unit * step
            source = w0 + v * step * stride + gate * hidden + unit * step
            target = panel + row * width
            if here >= step and left >= step:
                transpose_block(weights, source, stride, panels, target, width)
            else:
                transpose_edge(weights, source, stride, here, left, panels, target, width, min(step, depth - row), step)
            gate += 1
            if gate == gates:
                unit, gate = unit + 1, 0


@kernel
def pack_columns(weights, first_gate, gates, of, panels, team, member, parts):
    """Pack some gates of `weights` (K, G * H), G = `of`, in panels of interleaved columns; overwrites `panels`.

    By members of a team.
    """
    depth, hidden = weights.shape[0], weights.shape[1] // of
    vectors = panels.shape[0] * VECTORS_PER_PANEL
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(depth, part, parts)
        pack_lines(weights, first_gate * hidden, weights.shape[1], hidden, gates, first, last, vectors, panels, depth)
        part = take_part(team)
    leave_team(team, member)


@kernel
def pack_transposed(weights, first_gate, gates, of, panels, team, member, parts):
    """Pack the transpose of some gates of `weights` (K, G * H), G = `of`: depth of interleaved columns, K columns.

    Overwrites `panels`, whose depth is U * gates * L, or H without padding for a single gate. By members of a team.
    """
    columns, hidden = weights.shape[0], weights.shape[1] // of
    width = panel_width(weights)
    depth = panels.shape[1] // width
    lines = (hidden + lanes(weights) - 1) // lanes(weights) * gates
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(panels.shape[0], part, parts)
        pack_transposed_lines(weights, first_gate * hidden, weights.shape[1], columns, hidden, gates,
                              first * VECTORS_PER_PANEL, last * VECTORS_PER_PANEL, 0, lines,
                              panels, first * depth * width, depth)  # fmt: skip
        part = take_part(team)
    leave_team(team, member)


@shared("sums gradient")
def unpack_rows(sums, offset, gates, gradient, g0, stride, rows, hidden, first, end):
    """Copy rows `first .. end` of `sums`, blocks of columns in gate order, to natural rows at `stride` from `g0` on."""
    step, block = lanes(sums), block_width(sums)
    units = unit_count(sums, hidden)
    for k in range(first, end):
        column = 0
        for gate in range(gates):
            for unit in range(units):
                copy_row(sums, offset + (column // block * rows + k) * block + column % block,
                         gradient, g0 + k * stride + gate * hidden + unit * step,
                         min(step, hidden - unit * step))  # fmt: skip
                column += step


@kernel
def unpack_sums(sums, gates, gradient, team, member, parts):
    """Copy `sums`, blocks of columns in gate order, to natural rows (K, G * H), by members of a team."""
    rows, hidden = gradient.shape[0], gradient.shape[1] // gates
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(rows, part, parts)
        unpack_rows(sums, 0, gates, gradient, 0, gradient.shape[1], rows, hidden, first, last)
        part = take_part(team)
    leave_team(team, member)


@shared("source target")
def transpose_rows(source, last, stride, depth, columns, target, target_offset, target_stride, first, end):
    """Transpose `depth` rows that end with the one at `last`, from the last to the first; overwrites rows of `target`.

    Of the `columns` columns, those in vectors `first .. end`.
    """
    step = lanes(source)
    for column in range(first * step, end * step, step):
        for k in range(0, depth, step):
            here, there = last - k * stride + column, target_offset + column * target_stride + k
            if depth - k >= step and columns - column >= step:
                transpose_block(source, here, -stride, target, there, target_stride)
            else:
                width = min(step, depth - k)
                transpose_edge(source, here, -stride, width, columns - column, target, there, target_stride,
                          min(step, columns - column), width)  # fmt: skip


@shared("source panels sums")
def pack_and_add_rows(source, last, stride, depth, columns, gates, panel, count, panels, target, sums, sums_offset,
                      first):  # fmt: skip
    """Pack `count` panels of `depth` rows that end with the one at `last`, from the last to the first, in gate order.

    Overwrites `panels` from `target` on, and adds the rows to the panels' columns in `sums`, which start from zero if
    `first`; in parts of SUM_DEPTH rows, as products are summed. The source has `columns` columns, interleaved.
    """
    step, width = lanes(source), panel_width(source)
    units = (columns + gates * step - 1) // (gates * step)
    vectors = width // step
    gate, unit = panel * vectors // units, panel * vectors % units
    for v in range(count * vectors):
        vector = panel * vectors + v
        column = (unit * gates + gate) * step
        left = columns - column if vector < gates * units else 0
        total = splat(source, 0.0) if first else load(sums, sums_offset + vector * step)
        here, there = last + column, target + v // vectors * depth * width + v % vectors * step
        for k in range(0, depth, SUM_DEPTH):
            part = splat(source, 0.0)
            for _ in range(k, min(k + SUM_DEPTH, depth)):
                line = load(source, here) if left >= step else load_first(source, here, left)
                store(panels, there, line)
                part = part + line
                here -= stride
                there += width
            total = total + part
        store(sums, sums_offset + vector * step, total)
        unit += 1
        if unit == units:
            gate, unit = gate + 1, 0


@expanded
def block_width(array):
    """Columns of a block of sums."""
    return PANELS_AT_ONCE * panel_width(array)


@inlined
def interleave_row(source, first_gate, gates, of, target, offset, vectors):
    """Some gates of a natural row (G * H,), G = `of`, in interleaved order; overwrites `target`.

    They are padded with zeros to so many vectors.
    """
    hidden = source.size // of
    step = lanes(source)
    for v in range(vectors):
        unit, gate = v // gates, v % gates
        left = max(hidden - unit * step, 0)
        here = (first_gate + gate) * hidden + min(unit * step, hidden)
        store(target, offset + v * step, load_first(source, here, left))
