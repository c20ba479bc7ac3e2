"""The only loops over time: forward and backward, for whole sequences, single steps and streams of every cell.

A pass is written in terms of GATES, BIASES, KEPT (vectors of a unit that the tape keeps), LATE, OWN, PROJECTED and the
row functions of a cell; `passes_of` makes the kernels of a cell of it. With two biases the products h @ Wh start from
the second one and lie apart from z; but if OWN is 1 no product starts from the last one, which the row functions read.
The last LATE gates multiply not h but q, which the first ones make of it: a step then has two stages. If PROJECTED is 1
the row functions make and read q in the place of h, and h = q @ Wp (N, P); then Wh is (P, G * H), and Wp (H, P) is the
last of the biases. A backward pass computes the h before each step of a chunk once more, in one product of all rows:
so the tape keeps nothing that others do not.

Row functions, for units `first .. end` of a row; each place is an offset, and `work` is the scratch::

    cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own, own0, clip)
        from z (and product, that of the last stage), overwrites h, what the tape keeps of the step, and the tracked
        state at `track_next`; at `own0` of `own` are the interleaved columns of the last bias; what goes
        into the activations of gates is within -clip .. clip
    cell_output(first, end, tape, tape0, track, track0, work, h)
        overwrites h with the hidden state after a step, from what was kept of it
    cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0, h, dz, dm,
                  own, own0, bounds)
        from dh and dtrack, overwrites dz (and dm, that of the last stage, or what the gradient of the last bias is the
        sum of), h[t], and dtrack by that of the step before; may add to dh_prev
    cell_between(first, end, work, z, product, h_prev, q, tape, tape0, clip)
        between two stages, from z, the first product and h[t-1], overwrites q, and in the tape what the rest needs
    cell_between_backward(first, end, tape, tape0, track, track_prev, work, dq, dh_prev, q, dz, dm, bounds)
        from dq, overwrites q, the rest of dz, and dm of the first stage; may add to dh_prev

The *tape* has a row for each sequence that has a step, step by step: K vectors of each unit. The *track* has a row of
states of all sequences before the first step, and then likewise after each. So sequences of the same length make
(T, N, U * K * L) and (T + 1, N, U * L) of them. Both have N rows, of a single step, where nothing is to be kept.
"""

from collections import namedtuple
from types import FunctionType

from rnnkernels.kernels.activations import bounds_within
from rnnkernels.kernels.in_place import BUFFER_VECTORS
from rnnkernels.kernels.jit import expanded, inlined, kernel, plain
from rnnkernels.kernels.layout import (
    active_rows,
    add_row,
    clear_padding,
    copy_row,
    copy_row_padded,
    fill_row,
    gather_rows,
    interleave_row,
    scatter_rows,
    unit_count,
    unpack_rows,
)
from rnnkernels.kernels.micro_kernel import VECTORS_PER_PANEL
from rnnkernels.kernels.phases import (
    Spans,
    Weights,
    accumulate,
    backward_regions,
    forward_regions,
    gather_earlier_gradients,
    more_active_rows,
    project,
    project_backward,
    project_earlier_states,
    project_states,
    recur,
    recur_backward,
    row_share,
    rows_before,
    stage,
    stage_columns,
    sum_columns,
    transpose_chunk,
    unit_share,
    whole_vectors,
)
from rnnkernels.kernels.simd import lanes
from rnnkernels.kernels.team import (
    close_team,
    consider_breaking_up,
    enter_team,
    is_broken_up,
    leave_team,
    offer_shares,
    share,
    step_size,
    take_part,
    wait_for_team,
)
from rnnkernels.kernels.trace import (
    ACCUMULATE,
    CELL,
    GATHER,
    PROJECT,
    RECUR,
    SCATTER,
    WAIT,
    begin_chunk,
    lap,
)

GATES = BIASES = KEPT = LATE = OWN = PROJECTED = 0
cell_forward = cell_output = cell_backward = cell_between = cell_between_backward = None

Kept = namedtuple("Kept", "tape tape_width tape_row track before after rows")
Kept.__doc__ = """Where a chunk keeps what it keeps.

Of the first step, what the tape has of the first sequence is at `tape_row`, its state before it at `before`, and after
it at `after`; the others follow, `tape_width` elements apart in the tape. So many `rows` of all sequences have that
step, and are between two steps; none where each step takes the place of the one before.
"""

Group = namedtuple("Group", "places first_row rows")
Group.__doc__ = """Sequences of a chunk: so many have its first step, from `first_row` on; `places` are in `Spans`."""

Crew = namedtuple("Crew", "team trace member size number buffer")
Crew.__doc__ = """Who works on a chunk of steps, the number of the chunk, and a buffer for products in place."""


Share = namedtuple("Share", "first last first_out last_out")
Share.__doc__ = (
    """Which units a member has, and which of the hidden state, whose units are others if it is projected."""
)


@expanded
def meet_nobody(team, member, size, tick):
    """What a stream has for `wait_for_team`."""
    return tick


@expanded
def take_no_time(trace, member, number, phase, time):
    """What a stream has for `lap`."""
    return time


@expanded
def all_rows(places, first_row, rows, step):
    """What a stream has for `active_rows`."""
    return rows


@expanded
def forward_steps(cell, between, meet, lap, active_rows, gates, late, projected, starts, bias, b, work, at, part,
                  group, inputs, hidden, outputs, weights, begin, steps, mine, strip, by_strips, z_column, kept, clip,
                  crew, tick, time):  # fmt: skip
    """Steps of a chunk, for the rows of a part and the units that are `mine`, see `Share`; returns (tick, time).

    The hidden state has `outputs` columns: H, if it is not `projected`. Biases are rows of `bias` from `b` on, the
    first `starts` of them are what products start from. Inputs are in the part, z too but `by_strips`, where each strip
    of the units is projected when its turn comes, at `z_column` of z.
    """
    units = unit_count(work, hidden)
    columns, lane_count = units * lanes(work), lanes(work)
    x, z, h, product = part + at.x, part + at.z, part + at.h, part + at.product
    stages = 2 if late > 0 else 1
    active, first, last = group.rows, mine.first, mine.last
    tape_row, before, after, kept_rows = kept.tape_row, kept.before, kept.after, kept.rows
    h_next = h + active * at.h_stride
    for s in range(steps):
        active = active_rows(group.places, group.first_row, active, begin + s)
        kept_rows = active_rows(group.places, 0, kept_rows, begin + s)
        descending = (begin + s) % 2 == 1
        made, made_stride = h_next, at.h_stride
        if projected > 0:
            made, made_stride = part + at.q, at.q_stride
        for number in range(stages):
            first_gate, count = stage(number, gates, late)
            left, start = h, b + at.b_columns
            if number > 0:
                left = part + at.q
                start += stage_columns(hidden, first_gate, lane_count)
            for unit in range(first, last, strip):
                end_unit = min(unit + strip, last)
                strip_column, product_column = unit * lane_count * gates, unit * lane_count * count
                row, product_row = z + strip_column, product + first_gate * columns
                if by_strips:
                    row, product_row = z + z_column, product + z_column - product_column
                    project(work, x, at.x_stride, active, inputs, weights, hidden, gates, unit, end_unit, bias, b,
                            row, at.z_stride, crew.buffer)  # fmt: skip
                    time = lap(crew.trace, crew.member, crew.number, PROJECT, time)
                if starts > 1:
                    recur(work, left, at.h_stride, active, outputs, weights, hidden, first_gate, count, gates, unit,
                          end_unit, bias, start + product_column, 0, product_row + product_column, at.z_stride,
                          descending, crew.buffer)  # fmt: skip
                else:
                    recur(work, left, at.h_stride, active, outputs, weights, hidden, 0, gates, gates, unit, end_unit,
                          work, row, at.z_stride, row, at.z_stride, descending, crew.buffer)  # fmt: skip
                time = lap(crew.trace, crew.member, crew.number, RECUR, time)
                row -= strip_column
                tape_here, here = tape_row, 0
                for n in range(active):
                    if number + 1 < stages:
                        between(unit, end_unit, work, row + n * at.z_stride, product_row + n * at.z_stride,
                                h + n * at.h_stride, part + at.q + n * at.q_stride, kept.tape, tape_here,
                                clip)  # fmt: skip
                    else:
                        cell(unit, end_unit, work, row + n * at.z_stride, product_row + n * at.z_stride,
                             h + n * at.h_stride, made + n * made_stride,
                             kept.tape, tape_here, kept.track, before + here, after + here,
                             bias, b + starts * at.b_columns, clip)  # fmt: skip
                    tape_here += kept.tape_width
                    here += columns
                time = lap(crew.trace, crew.member, crew.number, CELL, time)
            tick = meet(crew.team, crew.member, crew.size, tick)
            time = lap(crew.trace, crew.member, crew.number, WAIT, time)
        if projected > 0:
            project_states(work, made, made_stride, active, weights, hidden, outputs, mine.first_out, mine.last_out,
                           bias, b + at.zeros - at.b, h_next, at.h_stride, crew.buffer)  # fmt: skip
            time = lap(crew.trace, crew.member, crew.number, RECUR, time)
            tick = meet(crew.team, crew.member, crew.size, tick)
            time = lap(crew.trace, crew.member, crew.number, WAIT, time)
        tape_row += kept_rows * kept.tape_width
        before, after = after, after + kept_rows * columns
        z += active * at.z_stride
        h, h_next = h_next, h_next + active * at.h_stride
    return tick, time


@inlined
def interleave_biases(biases, gates, late, count, hidden, target, offset, stride):
    """Biases as rows of interleaved columns; the second one by stages. Overwrites `target`."""
    lane_count = lanes(target)
    for k in range(count):
        here = offset + k * stride
        if k > 0 and late > 0:
            early = stage_columns(hidden, gates - late, lane_count)
            interleave_row(biases[k], 0, gates - late, gates, target, here, early // lane_count)
            interleave_row(biases[k], gates - late, late, gates, target, here + early, (stride - early) // lane_count)
        else:
            interleave_row(biases[k], 0, gates, gates, target, here, stride // lane_count)


@plain
def chunk_end(places, first_row, rows, begin, end, chunk, capacity):
    """First step after a chunk from `begin` on, and rows of the chunk: of one step or as many as have room."""
    stop, total, active = begin, 0, rows
    while stop < end:
        active = active_rows(places, first_row, active, stop)
        if active == 0 or (stop > begin and (chunk == 1 or total + active > capacity)):
            break
        total += active
        stop += 1
    return stop, total


@plain
def chunk_begin(places, rows, end, begin, capacity):
    """First step of a chunk that ends before `end`, rows of that step and of the chunk, where `rows` have the last one.

    Of one step or as many as have room.
    """
    start, total, active = end, 0, rows
    while start > begin:
        more = more_active_rows(places, active, start - 1)
        if start < end and total + more > capacity:
            break
        total += more
        start, active = start - 1, more
    return start, active, total


@plain
def most_rows_of_a_part(places, parts):
    """Sequences of the largest of so many parts of a batch."""
    rows, most = active_rows(places, 0, places.shape[1], 0), 0
    for part in range(parts):
        first, end = row_share(places, rows, 0, places[1, 0], part, parts)
        most = max(most, end - first)
    return most


def sequence_forward(x, h0, track0, Wx, Wh, biases, h, last, tape, track, places, work, trace, team, member,
                     onward, packed, begin, end, chunk, strip, parts, by_rows, clip):  # fmt: skip
    """Steps `begin .. end` of sequences that lie at `places`, see `Spans`, by one member of a team.

    Overwrites their rows of `h` (rows, H) unless that is empty, `last` (N, H), the state after the last step of each
    sequence that ends, and these steps of `tape` and `track`, from rows of `x` (rows, D); begins with `h0` and `track0`
    (N, H), or in the middle with the states that the scratch and the track carry from call to call. The hidden state of
    a projected cell has P columns, and Wp (H, P) or its panels are the last of `biases`. The units are taken
    in strips of `strip`, a multiple of a panel. Where a chunk is a single step, each strip is projected when its turn
    comes, and z holds one strip of each member. Of at most `parts` members each takes a part of the batch if `by_rows`,
    and they do not meet; or else they divide the hidden units, and meet after each step.
    What goes into the activations of gates is kept within -clip .. clip.
    """
    Wp = biases[min(BIASES, len(biases) - 1)]
    weights = Weights(Wx, 0, Wh, 0, Wp, 0, packed)
    batch, outputs, inputs = places.shape[1], h0.shape[1], x.shape[1]
    hidden, projected = (track0.shape[1], outputs) if PROJECTED > 0 else (outputs, 0)
    lane_count, units, out_units = lanes(x), unit_count(x, hidden), unit_count(x, outputs)
    columns = units * lane_count
    pieces = parts if by_rows else 1
    by_strips = chunk == 1 and LATE == 0
    z_columns = ((1 if by_rows else parts) * strip * lane_count if by_strips else columns) * GATES
    most_rows = most_rows_of_a_part(places, pieces)
    at = forward_regions(most_rows, chunk, inputs, hidden, projected, GATES, LATE, BIASES, OWN, z_columns, lane_count)
    kept, given = track.shape[0] > 1, active_rows(places, 0, batch, 0)
    if member == 0:
        interleave_biases(biases, GATES, LATE, BIASES, hidden, work, at.b, at.b_columns)
        if PROJECTED > 0:
            fill_row(work, at.zeros, at.parts - at.zeros, 0.0)
        if begin == 0:
            for n in range(batch):
                copy_row_padded(track0, n * hidden, track, n * columns, hidden)
            for part in range(pieces):
                first_row, end_row = row_share(places, given, 0, places[1, 0], part, pieces)
                for n in range(first_row, end_row):
                    here = at.parts + part * at.part + at.h + (n - first_row) * at.h_stride
                    copy_row_padded(h0, n * outputs, work, here, outputs)
    size, first_step = enter_team(team, member, begin, by_rows)
    if member >= size and not by_rows:
        return
    buffer = at.parts + pieces * at.part + member * BUFFER_VECTORS * lane_count
    tick, number = 1, 0
    part = take_part(team) if by_rows else 0
    while part < pieces:
        first_row, end_row = row_share(places, given, 0, places[1, 0], part, pieces)
        here = at.parts + part * at.part
        start, recruits = first_step, member == 0 and not by_rows
        rows = active_rows(places, first_row, end_row - first_row, start)
        kept_row, kept_rows = 0, 0
        if kept:
            kept_row, kept_rows = rows_before(places, start), active_rows(places, 0, batch, start)
        while start < end and rows > 0:
            if recruits:
                size = close_team(team, start)
                recruits, tick = size == 1, 1
            members = 1 if by_rows else size
            me = 0 if by_rows else member
            first, last_unit = unit_share(units, me, members)
            first_out, last_out = unit_share(out_units, me, members)
            out_column = first_out * lane_count
            width = max(min(outputs, last_out * lane_count) - out_column, 0)
            stop, depth = chunk_end(places, first_row, rows, start, end, chunk, chunk * most_rows)
            time = begin_chunk(trace, member, number, start, stop - start)
            first_in, end_in = share(depth, me, members)
            gather_rows(x, inputs, places, batch, onward, first_row, rows, start, first_in, end_in, work, here + at.x,
                        at.x_stride)  # fmt: skip
            time = lap(trace, member, number, GATHER, time)
            consider_breaking_up(team, me, members, tick)
            tick = wait_for_team(team, me, members, tick)
            time = lap(trace, member, number, WAIT, time)
            if is_broken_up(team, members, tick):
                if member > 0:
                    return
                size, members, last_unit, last_out, width = 1, 1, units, out_units, outputs
            if not by_strips:
                project(work, here + at.x, at.x_stride, depth, inputs, weights, hidden, GATES, first, last_unit,
                        work, at.b, here + at.z + first * lane_count * GATES, at.z_stride, buffer)  # fmt: skip
                time = lap(trace, member, number, PROJECT, time)
            before, after = first_row, first_row
            if kept:
                after += batch + kept_row
                if start > 0:
                    before = after - more_active_rows(places, kept_rows, start - 1)
            keeping = Kept(tape, tape.shape[2], (kept_row + first_row) * tape.shape[2],
                           track, before * columns, after * columns, kept_rows)  # fmt: skip
            crew = Crew(team, trace, member, members, number, buffer)
            tick, time = forward_steps(
                cell_forward, cell_between, wait_for_team, lap, active_rows, GATES, LATE, PROJECTED, BIASES - OWN, work,
                at.b, work, at, here, Group(places, first_row, rows), inputs, hidden, outputs, weights, start,
                stop - start, Share(first, last_unit, first_out, last_out), strip, by_strips,
                me * strip * lane_count * GATES, keeping, clip, crew, tick, time)  # fmt: skip
            after_row = here + at.h + rows * at.h_stride
            if h.size > 0:
                scatter_rows(work, after_row, at.h_stride, h, outputs, places, batch, onward, first_row, rows, start,
                             0, depth, out_column, width)  # fmt: skip
            for step in range(start, stop):
                after_row += out_column
                going_on = active_rows(places, first_row, rows, step + 1)
                for n in range(going_on, rows):
                    copy_row(work, after_row + n * at.h_stride, last, (first_row + n) * outputs + out_column,
                             width)  # fmt: skip
                if step + 1 == stop:
                    for n in range(going_on):
                        copy_row(work, after_row + n * at.h_stride, work, here + at.h + n * at.h_stride + out_column,
                                 width)  # fmt: skip
                after_row += rows * at.h_stride - out_column
                rows = going_on
                kept_row += kept_rows
                kept_rows = active_rows(places, 0, kept_rows, step + 1)
            time = lap(trace, member, number, SCATTER, time)
            start = stop
            number += 1
        part = take_part(team) if by_rows else pieces
    leave_team(team, member)


def sequence_backward(x, h0, Wx, Wh, tape, track, dh, dlast, dtrack, dx, dh0, dWx, dWh, dbs, places, work, trace,
                      team, member, onward, packed, begin, end, kept_from, chunk, blocked, by_rows, clip):  # fmt: skip
    """Steps `end - 1 .. begin` of sequences that lie at `places`, see `Spans`, by one member of a team.

    Overwrites their rows of `dx` (rows, D), takes `dtrack` (N, U * L) from the last step to before the first, and
    sums the weight gradients. With step 0 overwrites `dh0`, `dWx`, `dWh` and the db of each bias in `dbs`. The gradient
    of the last step of a sequence is the sum of its row of `dh` (rows, H) and of `dlast` (N, H), either of which may be
    empty. If OWN is 1 the last one of `dbs` holds that bias before. The tape and the track hold steps from `kept_from`
    on, `h0` (N, H) is the state before that. Where the hidden state is projected, `dbs` has two arrays more: the
    gradient of Wp, which is overwritten, and Wp (H, P), or its panels for products with its transpose, and then those
    for products with itself.
    """
    Wp, dWp = dbs[min(BIASES + 1, len(dbs) - 1)], dbs[min(BIASES, len(dbs) - 1)]
    batch, inputs, outputs = places.shape[1], dx.shape[1], h0.shape[1]
    hidden, projected = (dWx.shape[1] // GATES, outputs) if PROJECTED > 0 else (outputs, 0)
    spans = Spans(places, batch, onward, places[1, 0])
    lane_count, units, out_units = lanes(x), unit_count(x, hidden), unit_count(x, outputs)
    weights = Weights(Wx, 0, Wh, 0, Wp, 0, packed)
    columns = units * lane_count
    late_column = columns * (GATES - LATE) if LATE > 0 else 0
    at = backward_regions(batch, chunk, inputs, hidden, projected, GATES, LATE, BIASES, OWN, blocked, lane_count)
    dm0 = at.dz if OWN > 0 else at.dm  # the gradients of h @ Wh
    bounds = bounds_within(work, clip)
    if member == 0 and end == spans.longest:
        fill_row(work, at.zeros, at.dWx - at.zeros, 0.0)
        if OWN > 0:
            interleave_row(dbs[BIASES - 1], 0, GATES, GATES, work, at.own, at.b_columns // lane_count)
        for n in range(active_rows(places, 0, batch, end - 1)):
            here = at.dh + n * at.h_stride
            if dh.size == 0:
                fill_row(work, here, at.h_stride, 0.0)
            else:
                copy_row_padded(dh, (places[0, n] + onward * (end - 1)) * outputs, work, here, outputs)
            if dlast.size > 0:
                add_row(dlast, n * outputs, work, here, outputs)
    size, stop = enter_team(team, member, end, False)
    if member >= size:
        return
    buffer = at.buffer + member * at.member
    tick, number, recruits = 1, 0, member == 0
    kept_row = rows_before(places, stop) - rows_before(places, kept_from)  # after the last one of a step
    while stop > begin:
        if recruits:
            size = close_team(team, stop)
            recruits, tick = size == 1, 1
        active = active_rows(places, 0, batch, stop - 1)
        start, rows, depth = chunk_begin(places, active, stop, begin, chunk * batch)
        previous = more_active_rows(places, rows, start - 1) if start > 0 else rows
        first_row, end_row = 0, previous
        if by_rows:
            first_row, end_row = row_share(places, rows, start, stop, member, size)
            if member == size - 1:  # sequences whose last step is the one before the chunk
                end_row = previous
        first, last = unit_share(units, 0 if by_rows else member, 1 if by_rows else size)
        first_out, last_out = unit_share(out_units, 0 if by_rows else member, 1 if by_rows else size)
        out_column = first_out * lane_count
        width = max(min(outputs, last_out * lane_count) - out_column, 0)
        time = begin_chunk(trace, member, number, start, stop - start)
        first_in, end_in = share(depth, member, size)
        gather_rows(x, inputs, places, batch, onward, 0, rows, start, first_in, end_in, work, at.x,
                    at.x_stride)  # fmt: skip
        gather_earlier_gradients(dh, dlast, work, at, spans, outputs, start, stop - start, depth, previous,
                                 first_row, end_row, first_out, last_out)  # fmt: skip
        for n in range(first_row, min(end_row, rows)):
            row = at.h + n * at.h_stride
            if start == kept_from:
                copy_row_padded(h0, n * outputs + out_column, work, row + out_column, width)
            else:
                if PROJECTED > 0:
                    row = at.q + (depth + n) * at.q_stride
                slot = kept_row - depth - previous + n
                cell_output(first, last, tape, slot * tape.shape[2], track, (batch + slot) * columns, work, row)
        time = lap(trace, member, number, GATHER, time)
        z_row, going_on = depth, 0  # of the next step: where its rows begin, and how many go on to it
        for step in range(stop - 1, start - 1, -1):
            end_active = min(end_row, active)
            next_row, z_row = z_row, z_row - active
            more = more_active_rows(places, active, step - 1) if step > start else previous
            kept_row -= active
            before = batch + kept_row - more if step > kept_from else 0
            dh_next = at.dh + (previous + z_row) * at.h_stride
            dh_step = dh_next - more * at.h_stride
            dz_step = z_row * at.dz_stride
            count, descending = max(end_active - first_row, 0), step % 2 == 1
            from_outside, outside_stride = dh_next, at.h_stride
            if PROJECTED > 0:
                # Others made some columns of dh, where units are divided.
                tick = wait_for_team(team, member, step_size(size, by_rows), tick)
                time = lap(trace, member, number, WAIT, time)
                from_outside, outside_stride = at.dq, at.q_stride
                project_backward(work, at, weights, outputs, hidden, dh_next + first_row * at.h_stride,
                                 at.dq + first_row * at.q_stride, count, first, last, descending, buffer)  # fmt: skip
                time = lap(trace, member, number, RECUR, time)
            for n in range(first_row, end_active):
                # h of a last step is no step's previous state; it goes to the spare rows at the end.
                h_row = at.h + ((next_row if n < going_on else depth) + n) * at.h_stride
                if PROJECTED > 0:
                    h_row = at.q + (z_row + n) * at.q_stride
                slot = kept_row + n
                dz_row, dm_row = dz_step + n * at.dz_stride, late_column + dz_step + n * at.dz_stride
                cell_backward(first, last, tape, slot * tape.shape[2],
                     track, (before + n) * columns, (batch + slot) * columns,
                     work, from_outside + n * outside_stride, dh_step + n * at.h_stride, dtrack, n * columns,
                     h_row, at.dz + dz_row, at.dm + dm_row, work, at.own, bounds)  # fmt: skip
                if last == units:
                    if LATE == 0:
                        clear_padding(work, at.dz + dz_row, hidden, GATES)
                    if BIASES - OWN > 1:
                        clear_padding(work, at.dm + dm_row, hidden, LATE if LATE > 0 else GATES)
            time = lap(trace, member, number, CELL, time)
            # Others need these columns of dm, where units are divided.
            tick = wait_for_team(team, member, step_size(size, by_rows), tick)
            time = lap(trace, member, number, WAIT, time)
            dm_rows, dh_rows = dz_step + first_row * at.dz_stride, first_row * at.h_stride
            if LATE > 0:
                recur_backward(work, at, weights, outputs, hidden, GATES - LATE, LATE, GATES,
                               at.dm + late_column + dm_rows, at.zeros, 0, at.dq + dh_rows, count, first, last,
                               descending, buffer)  # fmt: skip
                time = lap(trace, member, number, RECUR, time)
                for n in range(first_row, end_active):
                    dz_row, slot = dz_step + n * at.dz_stride, kept_row + n
                    cell_between_backward(first, last, tape, slot * tape.shape[2],
                         track, (before + n) * columns, work, at.dq + n * at.h_stride, dh_step + n * at.h_stride,
                         at.q + (z_row + n) * at.q_stride, at.dz + dz_row, at.dm + dz_row, bounds)  # fmt: skip
                    if last == units:
                        clear_padding(work, at.dz + dz_row, hidden, GATES)
                        clear_padding(work, at.dm + dz_row, hidden, GATES - LATE)
                time = lap(trace, member, number, CELL, time)
                tick = wait_for_team(team, member, step_size(size, by_rows), tick)
                time = lap(trace, member, number, WAIT, time)
            recur_backward(work, at, weights, outputs, hidden, 0, GATES - LATE, GATES, dm0 + dm_rows,
                           dh_step + dh_rows, at.h_stride, dh_step + dh_rows, count, first_out, last_out, descending,
                           buffer)  # fmt: skip
            if PROJECTED > 0 and last_out == out_units:
                for n in range(first_row, end_active):
                    clear_padding(work, dh_step + n * at.h_stride, outputs, 1)
            time = lap(trace, member, number, RECUR, time)
            going_on, active = active, more
        if by_rows or PROJECTED > 0:  # the rows of x, h and dz of all members are there
            tick = wait_for_team(team, member, size, tick)
            time = lap(trace, member, number, WAIT, time)
        if PROJECTED > 0:
            forth = Weights(Wx, 0, Wh, 0, Wp, panels_size(hidden, outputs, lane_count) if packed else 0, packed)
            project_earlier_states(work, at, forth, places, start, stop, rows, depth, hidden, outputs,
                                   start == kept_from, member, size, buffer)  # fmt: skip
            time = lap(trace, member, number, ACCUMULATE, time)
            tick = wait_for_team(team, member, size, tick)
            time = lap(trace, member, number, WAIT, time)
        offer_shares(team, member, size)
        transpose_chunk(work, at, inputs, hidden, outputs, LATE, PROJECTED, depth, member, size)
        time = lap(trace, member, number, ACCUMULATE, time)
        tick = wait_for_team(team, member, size, tick)  # the transposes are there
        time = lap(trace, member, number, WAIT, time)
        accumulate(work, at, weights, dx, dWx, dWh, dWp, spans, start, rows, depth, previous, inputs, hidden, outputs,
                   GATES, LATE, BIASES, OWN, PROJECTED, blocked, stop == spans.longest, team, member, size)  # fmt: skip
        time = lap(trace, member, number, ACCUMULATE, time)
        consider_breaking_up(team, member, size, tick)
        tick = wait_for_team(team, member, size, tick)  # nobody reads this chunk any more
        time = lap(trace, member, number, WAIT, time)
        stop = start
        number += 1
        if is_broken_up(team, size, tick):
            if member > 0:
                return
            size = 1
    if begin == 0:
        if blocked:
            first_in, end_in = share(inputs, member, size)
            unpack_rows(work, at.dWx, GATES, dWx, 0, GATES * hidden, inputs, hidden, first_in, end_in)
            first_in, end_in = share(outputs, member, size)
            early, early_sums = GATES - LATE, hidden * sum_columns(hidden, GATES - LATE, lane_count)
            unpack_rows(work, at.dWh, early, dWh, 0, GATES * hidden, outputs, hidden, first_in, end_in)
            if LATE > 0:
                unpack_rows(work, at.dWh + early_sums, LATE, dWh, early * hidden, GATES * hidden, hidden, hidden,
                            first_in, end_in)  # fmt: skip
            if PROJECTED > 0:
                first_in, end_in = share(hidden, member, size)
                unpack_rows(work, at.dWp, 1, dWp, 0, outputs, hidden, outputs, first_in, end_in)
        if member == 0:
            for k in range(BIASES):
                for gate in range(GATES):
                    here = at.db + k * at.b_columns + gate * columns
                    if k > 0 and LATE > 0 and gate >= GATES - LATE:
                        here += stage_columns(hidden, GATES - LATE, lane_count) - late_column
                    copy_row(work, here, dbs[k], gate * hidden, hidden)
        given = active_rows(places, 0, batch, 0)
        for n in range(member, batch, size):
            if n < given:
                copy_row(work, at.dh + n * at.h_stride, dh0, n * outputs, outputs)
            elif dlast.size > 0:
                copy_row(dlast, n * outputs, dh0, n * outputs, outputs)
            else:
                fill_row(dh0, n * outputs, outputs, 0.0)
    leave_team(team, member)


COUNT_BITS = 32

STREAM_ROWS = 12
"""Rows of a chunk of a stream: two full tiles read weights as often as more would, and stay in a near cache until their
step comes."""


@plain
def stream_regions(batch, inputs, hidden, projected, gates, late, biases, own, kept, lane_count):
    """Steps of a chunk, where the tape and the scratch begin behind the track, regions, size of all memory.

    The tape has a row for each sequence where a second stage needs what the first has left there, or else one for all.
    """
    columns = whole_vectors(hidden, lane_count)
    tape_rows = batch if late > 0 else 1
    base = whole_vectors((batch + kept * tape_rows) * columns, VECTORS_PER_PANEL * lane_count)
    chunk = max(STREAM_ROWS // batch, 1) if batch > 1 else STREAM_ROWS
    at = forward_regions(batch, chunk, inputs, hidden, projected, gates, late, biases, own, columns * gates, lane_count)
    return chunk, batch * columns, base, at, base + at.part


@plain
def panels_size(hidden, projected, lane_count):
    """Elements of the panels of a projection for products with its transpose."""
    return stage_columns(hidden, 1, lane_count) * whole_vectors(projected, lane_count)


@plain
def packed_regions(inputs, hidden, projected, gates, late, biases, lane_count):
    """What follows the panels of Wx in packed weights, and the size of all.

    Panels of Wh, interleaved biases, of a projected cell zeros and the panels of Wp, and the clip of a stream.
    """
    columns = stage_columns(hidden, gates - late, lane_count) + stage_columns(hidden, late, lane_count)
    outputs = projected if projected > 0 else hidden
    Wh = inputs * stage_columns(hidden, gates, lane_count)
    zeros = Wh + (outputs + biases) * columns
    Wp = zeros + stage_columns(projected, 1, lane_count)
    clip = Wp + hidden * stage_columns(projected, 1, lane_count)
    return Wh, Wh + outputs * columns, zeros, Wp, clip, clip + lane_count


@plain
def stream_counts(batch, hidden):
    """The number of sequences and that of units in one: each argument of a call costs time."""
    return batch | hidden << COUNT_BITS


def stream_forward(x, weights, memory, h, counts, begin, end):
    """Steps `begin .. end` of `x` (N * T, D) on packed weights; overwrites these of `h` (N * T, H), and the states.

    All that a stream owns lies in one array, too, see `stream_counts`; h of a projected cell has P columns.
    """
    batch = counts & ((1 << COUNT_BITS) - 1)
    if batch > 0:
        length, outputs, inputs = h.shape[0], h.shape[1], x.shape[1]
        if batch > 1:
            length //= batch
        hidden, projected = (counts >> COUNT_BITS, outputs) if PROJECTED > 0 else (outputs, 0)
        lane_count, units, out_units = lanes(x), unit_count(x, hidden), unit_count(x, outputs)
        chunk, tape, base, at, _ = stream_regions(batch, inputs, hidden, projected, GATES, LATE, BIASES, OWN, KEPT,
                                                  lane_count)  # fmt: skip
        Wh, b, _, Wp, clip, _ = packed_regions(inputs, hidden, projected, GATES, LATE, BIASES, lane_count)
        matrices = Weights(weights, 0, weights, Wh, weights, Wp, True)
        tape_width = KEPT * units * lane_count if LATE > 0 else 0
        keeping, nobody = Kept(memory, tape_width, tape, memory, 0, 0, 0), Crew(0, 0, 0, 1, 0, 0)
        for start in range(begin, end, chunk):
            steps = min(chunk, end - start)
            for s in range(steps):
                for n in range(batch):
                    copy_row_padded(x, (n * length + start + s) * inputs,
                                    memory, base + at.x + (s * batch + n) * at.x_stride, inputs)  # fmt: skip
            project(memory, base + at.x, at.x_stride, steps * batch, inputs, matrices, hidden, GATES, 0, units,
                    weights, b, base + at.z, at.z_stride, 0)  # fmt: skip
            forward_steps(cell_forward, cell_between, meet_nobody, take_no_time, all_rows, GATES, LATE, PROJECTED,
                          BIASES - OWN, weights, b, memory, at, base, Group(0, 0, batch), inputs, hidden, outputs,
                          matrices, start, steps, Share(0, units, 0, out_units), units, False, 0, keeping,
                          weights[clip], nobody, 0, 0)  # fmt: skip
            for s in range(steps):
                for n in range(batch):
                    copy_row(memory, base + at.h + ((s + 1) * batch + n) * at.h_stride,
                             h, (n * length + start + s) * outputs, outputs)  # fmt: skip
            for n in range(batch):
                row = base + at.h + n * at.h_stride
                copy_row(memory, row + steps * batch * at.h_stride, memory, row, outputs)


@kernel
def interleave_bias(bias, first_gate, gates, of, target, offset, vectors):
    """Some gates of a natural bias as an interleaved row of so many vectors; overwrites it in `target`."""
    interleave_row(bias, first_gate, gates, of, target, offset, vectors)


@inlined
def nothing_between(first, end, work, z, product, h_prev, q, tape, tape0, clip):
    """What cells without late gates have for `cell_between`."""


@inlined
def nothing_between_backward(first, end, tape, tape0, track, track_prev, work, dq, dh_prev, q, dz, dm, bounds):
    """And for `cell_between_backward`."""


def passes_of(name, **parts):
    """The kernels of a cell: forward and backward over sequences, and forward for streams.

    `parts` are what stands for GATES, BIASES, KEPT, LATE, OWN, PROJECTED and the row functions. A kernel has them as
    its global names, which are constants to the compiler.
    """
    nothing = {"cell_between": nothing_between, "cell_between_backward": nothing_between_backward}
    parts = {"LATE": 0, "OWN": 0, "PROJECTED": 0, **nothing, **parts}

    def instantiate(function):
        own = FunctionType(function.__code__, {**globals(), **parts}, f"{name}_{function.__name__}")
        own.__qualname__, own.__module__, own.__doc__ = own.__name__, __name__, function.__doc__
        return kernel(own)

    return instantiate(sequence_forward), instantiate(sequence_backward), instantiate(stream_forward)
