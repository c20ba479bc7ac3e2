"""What all cells share: the scratch of a chunk of steps, and the phases before and after the recurrence.

A chunk holds time-major rows, of as many steps as fit. All scratch of a pass lies in one flat array; *regions* say
where each matrix of rows begins, and at which stride its rows lie. See `layout` for the order of columns. The members
of a team divide rows where a phase treats them alike, and hidden units, in whole panels, or sequences where it does
not. The members change no order of a sum.

The recurrent product of a step comes in one or two *stages*: the last `late` gates of a cell may wait for what the
first ones make of h. Rows of what is apart, and packed weights, have the columns of one stage after those of the other.

Where a cell is *projected*, h has so many columns, and is the product of what the units make with a matrix Wp (H, P).
"""

from collections import namedtuple

from rnnkernels.kernels.in_place import BUFFER_VECTORS, multiply_in_place, multiply_transposed_in_place
from rnnkernels.kernels.jit import expanded, plain
from rnnkernels.kernels.layout import (
    PANELS_AT_ONCE,
    active_rows,
    add_row,
    copy_row,
    copy_row_padded,
    drop_tiny,
    fill_row,
    pack_and_add_rows,
    scatter_rows,
    transpose_rows,
    unit_count,
)
from rnnkernels.kernels.micro_kernel import (
    VECTORS_PER_PANEL,
    multiply,
    panel_width,
)
from rnnkernels.kernels.simd import VECTOR_BYTES, lanes
from rnnkernels.kernels.team import MOST_SHARES, share, take_from_share

Spans = namedtuple("Spans", "places batch onward longest")
Spans.__doc__ = """Which rows of the caller's arrays are a sequence.

Step t of sequence n is row `places[0, n] + onward * t`, of `places[1, n]` steps; those with more steps come first. They
are `batch` sequences, the `longest` of which has so many steps.
"""

Weights = namedtuple("Weights", "Wx Wx_offset Wh Wh_offset Wp Wp_offset packed")
Weights.__doc__ = """Matrices of a pass and where they begin; natural, or packed.

By columns in a forward pass, transposed in a backward pass. `Wp` is anything where the cell is not projected.
"""

ForwardRegions = namedtuple(
    "ForwardRegions", "x z product h q part parts b zeros b_columns x_stride z_stride h_stride q_stride"
)
ForwardRegions.__doc__ = """Where the scratch of a forward pass lies: biases, a part for each share of the batch.

A part has the rows of a chunk: inputs, pre-activations, the products h @ Wh of a step where a cell wants them apart,
hidden states, with those before the chunk in the first rows, which carry the state from call to call, and what the
second stage of a step multiplies, or the projection. `x` to `q` count from the beginning of a part, `part` is its size,
the first one begins at `parts`. Biases lie in interleaved rows of `b_columns` from `b` on; `zeros` are as wide as a
projected state. Buffers of products in place, one for each member, follow the last part.
"""

BackwardRegions = namedtuple(
    "BackwardRegions",
    "x h q dq dh dz dm dx xT hT qT zeros dWx dWh dWp db own panels buffer member "
    "x_stride h_stride q_stride dz_stride t_stride b_columns",
)
BackwardRegions.__doc__ = """Where the scratch of a backward pass lies: rows of a chunk, and what `accumulate` needs.

`dz` are the gradients of x @ Wx, `dm` those of h @ Wh, which most cells have in the same place. `h` are previous hidden
states, and those of the last step in spare rows at the end; `q` is what second stages multiply, `dq` the gradient of
that of one step. Of a projected cell `q` is what the units made, with what they made before the chunk in spare rows.
`dh` has the gradient of the states before the chunk in its first rows, and so holds one step more; it carries the
gradient from call to call. `xT`, `hT` and `qT` are the transposes of `x`, `h` and `q`, from the last row to the first;
`zeros` is a row as wide as any. `dWx`, `dWh`, `dWp` and `db` are sums in gate order, each gate padded to whole units;
those of matrices are divided in blocks, see `layout`. After the rows of `db` comes one for a projection, which nobody
reads. `own` is the bias that row functions read. For each member, `member` elements apart, `panels` are PANELS_AT_ONCE
panels of dz, and `buffer` is for products in place.
"""


@plain
def whole_vectors(columns, lane_count):
    """Columns rounded up to whole vectors of so many lanes, a power of two.

    By bits: regions round some thirty numbers, and divisions would take 0.1 us of calls that can take 1 us.
    """
    return (columns + lane_count - 1) & -lane_count


@plain
def row_stride(columns, lane_count):
    """Length of a row of at least `columns` elements, in whole panels.

    Rows a multiple of 512 bytes apart would share few sets of a cache, so these get one panel more.
    """
    width = VECTORS_PER_PANEL * lane_count
    stride = whole_vectors(columns, width)
    return stride if stride & (512 // VECTOR_BYTES * lane_count - 1) > 0 else stride + width


@plain
def stage_columns(hidden, gates, lane_count):
    """Interleaved columns of so many gates, in whole panels."""
    return whole_vectors(whole_vectors(hidden, lane_count) * gates, VECTORS_PER_PANEL * lane_count)


@plain
def stage(number, gates, late):
    """First gate of a stage of a step, and how many it has."""
    return number * (gates - late), late if number > 0 else gates - late


@plain
def forward_regions(rows, chunk, inputs, hidden, projected, gates, late, biases, own, z_columns, lane_count):
    """Scratch for parts of so many sequences, chunks of so many steps, and rows of z with so many columns.

    The hidden state has `projected` columns, or H if they are 0.
    """
    b_columns = stage_columns(hidden, gates - late, lane_count) + stage_columns(hidden, late, lane_count)
    x_stride, z_stride, h_stride, q_stride = (
        row_stride(inputs, lane_count),
        row_stride(z_columns, lane_count),
        row_stride(projected if projected > 0 else hidden, lane_count),
        row_stride(hidden, lane_count),
    )
    z = chunk * rows * x_stride
    product = z + chunk * rows * z_stride
    h = product + (biases - own - 1) * rows * z_stride
    q = h + (chunk + 1) * rows * h_stride
    part = q + (rows * q_stride if late + projected > 0 else 0)
    zeros = biases * b_columns
    parts = zeros + stage_columns(projected, 1, lane_count)
    return ForwardRegions(0, z, product, h, q, part, parts, 0, zeros, b_columns, x_stride, z_stride, h_stride, q_stride)


@plain
def sum_columns(hidden, gates, lane_count):
    """Columns of so many gates, each padded to whole units, in whole blocks of sums."""
    return whole_vectors(whole_vectors(hidden, lane_count) * gates, PANELS_AT_ONCE * VECTORS_PER_PANEL * lane_count)


@plain
def backward_regions(rows, chunk, inputs, hidden, projected, gates, late, biases, own, blocked, lane_count):
    """Scratch for so many sequences and chunks of so many steps; sums are in it only if they are `blocked`.

    The hidden state has `projected` columns, or H if they are 0.
    """
    outputs = projected if projected > 0 else hidden
    width = VECTORS_PER_PANEL * lane_count
    depth, columns = chunk * rows, whole_vectors(hidden, lane_count) * gates
    x_stride, h_stride, q_stride, dz_stride = (
        row_stride(inputs, lane_count),
        row_stride(outputs, lane_count),
        row_stride(hidden, lane_count),
        row_stride(columns, lane_count),
    )
    t_stride = row_stride(depth, lane_count)
    b_columns = stage_columns(hidden, gates - late, lane_count) + stage_columns(hidden, late, lane_count)
    x_sums = sum_columns(hidden, gates, lane_count) if blocked else 0
    h_sums = sum_columns(hidden, gates - late, lane_count) + sum_columns(hidden, late, lane_count) if blocked else 0
    p_sums = sum_columns(projected, 1, lane_count) if blocked else 0
    h = depth * x_stride
    q = h + (depth + rows) * h_stride
    dq = q + (depth * q_stride if late > 0 else 0) + ((depth + rows) * q_stride if projected > 0 else 0)
    dh = dq + (rows * q_stride if late + projected > 0 else 0)
    dz = dh + (depth + rows) * h_stride
    dm = dz + (biases - 1) * depth * dz_stride
    dx = dm + depth * dz_stride
    xT = dx + depth * x_stride
    hT = xT + whole_vectors(inputs, lane_count) * t_stride
    qT = hT + whole_vectors(outputs, lane_count) * t_stride
    zeros = qT + (whole_vectors(hidden, lane_count) * t_stride if late + projected > 0 else 0)
    dWx = zeros + max(x_stride, h_stride, dz_stride) + PANELS_AT_ONCE * width
    dWh = dWx + inputs * x_sums
    dWp = dWh + outputs * h_sums
    db = dWp + hidden * p_sums
    own_row = db + biases * b_columns + sum_columns(projected, 1, lane_count)
    panels = own_row + own * b_columns
    buffer = panels + whole_vectors(PANELS_AT_ONCE * depth, lane_count) * width
    member = buffer + BUFFER_VECTORS * lane_count - panels
    return BackwardRegions(0, h, q, dq, dh, dz, dm, dx, xT, hT, qT, zeros, dWx, dWh, dWp, db, own_row, panels,
                           buffer, member, x_stride, h_stride, q_stride, dz_stride, t_stride, b_columns)  # fmt: skip


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
                          weights.Wx, 0, gates * hidden, hidden, gates, depth, first_unit, end_unit,
                          bias, b + first_unit * gates * lanes(work), 0, work, z, z_stride, work, buffer)  # fmt: skip


@expanded
def recur(work, h, h_stride, rows, depth, weights, hidden, first_gate, gates, of, first_unit, end_unit, source, start,
          start_stride, z, z_stride, descending, buffer):  # fmt: skip
    """Recur: z = start + h @ Wh for the rows of a step, the gates of a stage and some units; overwrites z.

    The cell has `of` gates, and h has `depth` columns. The start lies in `source`. Steps are `descending` by turns, see
    `multiply`; so it is in `recur_backward`.
    """
    if weights.packed:
        column = first_unit * gates * lanes(work)
        if first_gate > 0:
            column += stage_columns(hidden, first_gate, lanes(work))
        multiply(work, h, h_stride, rows,
                 weights.Wh, weights.Wh_offset + column * depth, depth, (end_unit - first_unit) * gates,
                 source, start, start_stride, work, z, z_stride, descending)  # fmt: skip
    else:
        multiply_in_place(work, h, h_stride, rows,
                          weights.Wh, first_gate * hidden, of * hidden, hidden, gates, depth, first_unit, end_unit,
                          source, start, start_stride, work, z, z_stride, work, buffer)  # fmt: skip


@expanded
def project_states(work, q, q_stride, rows, weights, hidden, outputs, first_unit, end_unit, zeros_of, zeros, h,
                   h_stride, buffer):  # fmt: skip
    """H = q @ Wp for some rows and units of a projected state, where what is tiny becomes zero; overwrites h."""
    project(work, q, q_stride, rows, hidden,
            Weights(weights.Wp, weights.Wp_offset, weights.Wp, 0, weights.Wp, 0, weights.packed), outputs, 1,
            first_unit, end_unit, zeros_of, zeros, h + first_unit * lanes(work), h_stride, buffer)  # fmt: skip
    for n in range(rows):
        drop_tiny(work, h + n * h_stride + first_unit * lanes(work), (end_unit - first_unit) * lanes(work))


@expanded
def project_earlier_states(work, at, weights, places, begin, end, rows, depth, hidden, outputs, is_first, member, size,
                           buffer):  # fmt: skip
    """H of the step before each step of a chunk `begin .. end`, of what the units made; a member's share of the rows.

    But for the first step if it `is_first` of all, before which there is no other. Where as many sequences have a step
    as have the next one, rows of both are side by side.
    """
    units = unit_count(work, outputs)
    if not is_first:
        first, last = share(rows, member, size)
        project_states(work, at.q + (depth + first) * at.q_stride, at.q_stride, last - first, weights, hidden, outputs,
                       0, units, work, at.zeros, at.h + first * at.h_stride, at.h_stride, buffer)  # fmt: skip
    source, target, active, step = 0, rows, rows, begin + 1
    while target < depth:
        going_on, steps = active_rows(places, 0, active, step), 1
        while going_on == active and step + steps < end and active_rows(places, 0, active, step + steps) == active:
            steps += 1
        first, last = share(steps * going_on, member, size)
        project_states(work, at.q + (source + first) * at.q_stride, at.q_stride, last - first, weights, hidden, outputs,
                       0, units, work, at.zeros, at.h + (target + first) * at.h_stride, at.h_stride,
                       buffer)  # fmt: skip
        source += steps * active
        target += steps * going_on
        active, step = going_on, step + steps


@expanded
def transposed_product(work, dz, dz_stride, rows, matrix, offset, packed, columns, hidden, first_gate, gates, of,
                       first, end, start, start_stride, out, out_stride, descending, buffer):  # fmt: skip
    """Out = start + dz @ W.T for some gates of W (columns, G * H), some rows, and vectors `first .. end` of columns."""
    if packed:
        depth, column = unit_count(work, hidden) * gates * lanes(work), first * lanes(work)
        here = offset + column * depth
        if first_gate > 0:
            here += stage_columns(columns, 1, lanes(work)) * unit_count(work, hidden) * first_gate * lanes(work)
        multiply(work, dz, dz_stride, rows, matrix, here, depth, end - first,
                 work, start, start_stride, work, out, out_stride, descending)  # fmt: skip
    else:
        multiply_transposed_in_place(work, dz, dz_stride, rows, matrix, first_gate * hidden, of * hidden,
                                     columns, hidden, gates, first, end, work, start, start_stride,
                                     work, out, out_stride, work, buffer)  # fmt: skip


@expanded
def recur_backward(work, at, weights, outputs, hidden, first_gate, gates, of, dm, start, start_stride, dh, rows,
                   first_unit, end_unit, descending, buffer):  # fmt: skip
    """Recur: dh = start + dm @ Wh.T for the rows of a step, the gates of a stage and some units of h."""
    column = first_unit * lanes(work)
    transposed_product(work, dm, at.dz_stride, rows, weights.Wh, weights.Wh_offset, weights.packed, outputs, hidden,
                       first_gate, gates, of, first_unit, end_unit, start + column, start_stride,
                       dh + column, at.h_stride, descending, buffer)  # fmt: skip


@expanded
def project_backward(work, at, weights, outputs, hidden, dh, dq, rows, first_unit, end_unit, descending,
                     buffer):  # fmt: skip
    """Dq = dh @ Wp.T for the rows of a step and some units."""
    column = first_unit * lanes(work)
    transposed_product(work, dh, at.h_stride, rows, weights.Wp, weights.Wp_offset, weights.packed, hidden, outputs,
                       0, 1, 1, first_unit, end_unit, at.zeros + column, 0, dq + column, at.q_stride, descending,
                       buffer)  # fmt: skip


@plain
def more_active_rows(places, rows, step):
    """Sequences that have a step, given so many that have the next one."""
    while rows < places.shape[1] and places[1, rows] > step:
        rows += 1
    return rows


@plain
def rows_before(places, step):
    """Rows of all steps before this one, of all sequences."""
    rows = 0
    for n in range(places.shape[1]):
        rows += min(places[1, n], step)
    return rows


@plain
def row_share(places, rows, begin, end, member, size):
    """First and end of a member's share of sequences, the first `rows`, by how many of steps `begin .. end` they have.

    Each has step `begin`.
    """
    if size == 1:
        return 0, rows
    total = 0
    for n in range(rows):
        total += min(places[1, n], end) - begin
    first, before, n = -1, 0, 0
    while n < rows and before * size < total * (member + 1):
        if first < 0 and before * size >= total * member:
            first = n
        before += min(places[1, n], end) - begin
        n += 1
    return n if first < 0 else first, n


@expanded
def gather_earlier_gradients(dh, dlast, work, at, spans, hidden, begin, steps, total, previous, first_row, end_row,
                             first_unit, end_unit):  # fmt: skip
    """Gradients from outside for the states before a chunk of steps `begin .. begin + steps` and in it.

    The first rows of `at.dh` hold the complete gradient of the last step on entry. It moves to the last of `previous` +
    `total` rows. The rows before take, step by step, the part of `dh` (rows, H), zero if there is none or no step, and
    that of `dlast` where a sequence ends. For some sequences and units.
    """
    column = first_unit * lanes(work)
    width = end_unit * lanes(work) - column
    columns = max(min(hidden - column, width), 0)
    active = active_rows(spans.places, 0, spans.batch, begin + steps - 1)
    below = previous + total - active
    for n in range(first_row, min(end_row, active)):
        row = at.dh + n * at.h_stride + column
        copy_row(work, row, work, row + below * at.h_stride, width)
    for step in range(begin + steps - 2, begin - 2, -1):
        active = more_active_rows(spans.places, active, step) if step >= 0 else previous
        below -= active
        for n in range(first_row, min(end_row, active)):
            row = at.dh + (below + n) * at.h_stride + column
            if step < 0 or dh.size == 0:
                fill_row(work, row, width, 0.0)
            else:
                here = (spans.places[0, n] + spans.onward * step) * hidden + column
                copy_row_padded(dh, here, work, row, columns)
            if step + 1 == spans.places[1, n] and dlast.size > 0:
                add_row(dlast, n * hidden + column, work, row, columns)


@expanded
def transpose_chunk(work, at, inputs, hidden, outputs, late, projected, depth, member, size):
    """Write a member's share of the transposes of x, of h, and of q where there are late gates or a projection."""
    first, end = share(unit_count(work, inputs), member, size)
    transpose_rows(work, at.x + (depth - 1) * at.x_stride, at.x_stride, depth, inputs,
                   work, at.xT, at.t_stride, first, end)  # fmt: skip
    first, end = share(unit_count(work, outputs), member, size)
    transpose_rows(work, at.h + (depth - 1) * at.h_stride, at.h_stride, depth, outputs,
                   work, at.hT, at.t_stride, first, end)  # fmt: skip
    if late > 0 or projected > 0:
        first, end = share(unit_count(work, hidden), member, size)
        transpose_rows(work, at.q + (depth - 1) * at.q_stride, at.q_stride, depth, hidden,
                       work, at.qT, at.t_stride, first, end)  # fmt: skip


@expanded
def accumulate(work, at, weights, dx, dWx, dWh, dWp, spans, begin, rows, depth, previous, inputs, hidden, outputs,
               gates, late, biases, own, projected, blocked, is_first, team, member, size):  # fmt: skip
    """Add the gradients of a chunk: dWx += x.T @ dz, dWh += h.T @ dm, db += sum of dz; and dx = dz @ Wx.T, overwritten.

    Where there is a projection, dWp += q.T @ dh, of which the first `previous` rows are not of the chunk.

    The chunk has `depth` rows, so many `rows` of its first step, `begin`. A member takes its share of the panels of the
    sums and of the rows of dx, and what others have not come to by then. Sums start from zero if `is_first`. Sums over
    rows run backward in time-major order, in parts of SUM_DEPTH rows of a chunk; so do the chunks. Sums that are not
    `blocked` go straight to the rows of the gradients, whose columns are in gate order where no gate is padded.
    """
    mine = member * at.member
    parts = 2 * size if size > 1 else 1  # of the rows of dx: each reads all of Wx; not tuned
    part, owner, taken = take_from_share(team, 0, member, 0, size, parts)
    while part >= 0:
        first_row, end_row = share(depth, part, parts)
        transposed_product(work, at.dz + first_row * at.dz_stride, at.dz_stride, end_row - first_row,
                           weights.Wx, weights.Wx_offset, weights.packed, inputs, hidden, 0, gates, gates,
                           0, unit_count(work, inputs), at.zeros, 0, at.dx + first_row * at.x_stride, at.x_stride,
                           False, at.buffer + mine)  # fmt: skip
        scatter_rows(work, at.dx, at.x_stride, dx, inputs, spans.places, spans.batch, spans.onward, 0, rows, begin,
                     first_row, end_row, 0, inputs)  # fmt: skip
        part, owner, taken = take_from_share(team, 0, owner, taken, size, parts)

    width, gate_columns = panel_width(work), unit_count(work, hidden) * lanes(work)
    for k in range((3 if late > 0 else 2) if biases > 1 else 1):  # dz, and dm by stages where it is apart
        first_gate, count = stage(k - 1, gates, late) if k > 0 else (0, gates)
        columns, dz, db, a, dWh_sums = count * gate_columns, at.dz, at.db, at.hT, at.dWh
        if k > 0:
            dz = at.dm + first_gate * gate_columns
            db = at.db + at.b_columns
        if k > 1:
            a = at.qT
            db += stage_columns(hidden, first_gate, lanes(work))
            dWh_sums += outputs * sum_columns(hidden, first_gate, lanes(work))
        end_panel, group, groups = panel_groups(columns, width, size)
        part, owner, taken = take_from_share(team, k + 1, member, 0, size, groups)
        while part >= 0:
            panel = part * group
            panels = min(group, end_panel - panel)
            pack_and_add_rows(work, dz + (depth - 1) * at.dz_stride, at.dz_stride, depth, columns, count, panel, panels,
                              work, at.panels + mine, work, db, is_first)  # fmt: skip
            if k == 0:
                add_product(work, at, at.xT, inputs, at.panels + mine, depth, columns, at.dWx,
                            dWx, 0, gates * gate_columns, blocked, panel, panels, is_first)  # fmt: skip
            if (k > 0) == (biases - own > 1):
                add_product(work, at, a, outputs, at.panels + mine, depth, columns, dWh_sums,
                            dWh, first_gate * gate_columns, gates * gate_columns, blocked, panel, panels,
                            is_first)  # fmt: skip
            part, owner, taken = take_from_share(team, k + 1, owner, taken, size, groups)
    if projected > 0:
        columns = unit_count(work, outputs) * lanes(work)
        end_panel, group, groups = panel_groups(columns, width, size)
        part, owner, taken = take_from_share(team, MOST_SHARES - 1, member, 0, size, groups)
        while part >= 0:
            panel = part * group
            panels = min(group, end_panel - panel)
            last_row = at.dh + (previous + depth - 1) * at.h_stride
            pack_and_add_rows(work, last_row, at.h_stride, depth, columns, 1, panel, panels, work, at.panels + mine,
                              work, at.db + biases * at.b_columns, is_first)  # fmt: skip
            add_product(work, at, at.qT, hidden, at.panels + mine, depth, columns, at.dWp, dWp, 0, columns, blocked,
                        panel, panels, is_first)  # fmt: skip
            part, owner, taken = take_from_share(team, MOST_SHARES - 1, owner, taken, size, groups)


@expanded
def panel_groups(columns, width, size):
    """Panels of so many columns; how many a member takes at a time: a block, or one if there are few; times of that."""
    panels, group = (columns + width - 1) // width, PANELS_AT_ONCE
    if panels < size * PANELS_AT_ONCE and size > 1:
        group = 1
    return panels, group, (panels + group - 1) // group


@expanded
def add_product(work, at, a, rows, b, depth, columns, sums, gradient, g0, stride, blocked, panel, panels, is_first):
    """Total += A @ B for `rows` rows and some panels of columns in one block; it starts from zero if `is_first`.

    The total lies in blocks at `sums`, or else in rows of the gradient, whose columns begin at `g0`.
    """
    width = panel_width(work)
    if blocked:
        block = PANELS_AT_ONCE * width
        here = sums + panel // PANELS_AT_ONCE * rows * block + panel % PANELS_AT_ONCE * width
        s0, start_stride = (at.zeros, 0) if is_first else (here, block)
        multiply(work, a, at.t_stride, rows, work, b, depth, panels * VECTORS_PER_PANEL,
                 work, s0, start_stride, work, here, block, False)  # fmt: skip
    else:
        here = g0 + panel * width
        vectors = min(panels * VECTORS_PER_PANEL, (columns - panel * width) // lanes(work))
        if is_first:
            multiply(work, a, at.t_stride, rows, work, b, depth, vectors,
                     work, at.zeros, 0, gradient, here, stride, False)  # fmt: skip
        else:
            multiply(work, a, at.t_stride, rows, work, b, depth, vectors,
                     gradient, here, stride, gradient, here, stride, False)  # fmt: skip
