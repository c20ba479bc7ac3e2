"""The vanilla RNN: cell forward, cell backward, sequence forward, sequence backward.

    z[t] = b + x[t] @ Wx + h[t-1] @ Wh                                          (1)
    h[t] = tanh(z[t])                                                           (2)

    dz[t] = dh[t] * (1 - h[t]**2)                                               (3)
    dh[t-1] = dy[t-1] + dz[t] @ Wh.T                                            (4)
    dx = dz @ Wx.T,  dWx = x.T @ dz,  dWh = h[t-1].T @ dz,  db = sum of dz      (5)

where dy is the gradient that arrives from outside.
"""

from rnnkernels.kernels.activations import tanh
from rnnkernels.kernels.jit import inlined, kernel
from rnnkernels.kernels.layout import clear_padding, copy_row, copy_row_padded, gather_rows, scatter_rows, unit_count
from rnnkernels.kernels.phases import (
    accumulate,
    gather_earlier_gradients,
    project,
    recur,
    recur_backward,
    row_share,
    transpose_chunk,
    unit_share,
)
from rnnkernels.kernels.simd import fma, lanes, load, negative, store
from rnnkernels.kernels.team import (
    close_team,
    consider_breaking_up,
    enter_team,
    is_broken_up,
    leave_team,
    share,
    step_size,
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

GATES = 1


@inlined
def rnn_cell_forward(first, end, z, z0, h, h0, states, states0):
    """Units `first .. end` of a row: equation (2); overwrites them in `h` and `states` with h[t]."""
    for j in range(first * lanes(z), end * lanes(z), lanes(z)):
        value = tanh(load(z, z0 + j))
        store(h, h0 + j, value)
        store(states, states0 + j, value)


@inlined
def rnn_cell_backward(first, end, states, states0, dh, dh0, h, h0, dz, dz0):
    """Units `first .. end` of a row: equation (3); overwrites them in `dz` with dz[t] and in `h` with h[t]."""
    for j in range(first * lanes(dz), end * lanes(dz), lanes(dz)):
        value = load(states, states0 + j)
        store(h, h0 + j, value)
        store(dz, dz0 + j, load(dh, dh0 + j) * fma(negative(value), value, 1.0))


@kernel
def rnn_sequence_forward(x, weights, h, states, work, team, member, begin, end, chunk, strip, by_rows):
    """Steps `begin .. end`: equations (1) and (2), by one member of a team.

    Overwrites these steps of `h` (N, T, H) and of `states` (T, N, U * L); states of length 1 keep the last step only.
    `work.h` carries the hidden state. The units are taken in strips of `strip`, a multiple of a panel. Where a chunk is
    a single step, each strip is projected when its turn comes, and `work.z` holds one strip of each member.
    """
    size, start = enter_team(team, member, begin)
    if member >= size:
        return
    tick, number, recruits = 1, 0, member == 0
    batch, length, hidden = h.shape
    units = unit_count(x, hidden)
    columns = units * lanes(x)
    inputs, x_stride, z_stride, h_stride = x.shape[2], work.x.shape[1], work.z.shape[1], work.h.shape[1]
    kept = states.shape[0] == length
    while start < end:
        if recruits:
            size = close_team(team, start)
            recruits, tick = size == 1, 1
        first_row, end_row = row_share(batch, member, size, by_rows)
        rows = end_row - first_row
        first, last = unit_share(units, member, size, by_rows)
        column = first * lanes(x)
        width = max(min(hidden, last * lanes(x)) - column, 0)
        steps = min(chunk, end - start)
        time = begin_chunk(work.trace, member, number, start, steps)
        base = first_row * chunk
        mine = (0, steps * rows) if by_rows else share(steps * rows, member, size)
        gather_rows(x, start, first_row, rows, *mine, work.x, base * x_stride, x_stride, rows * x_stride, 0, inputs)
        time = lap(work.trace, member, number, GATHER, time)
        consider_breaking_up(team, member, step_size(size, by_rows), tick)
        tick = wait_for_team(team, member, step_size(size, by_rows), tick)
        time = lap(work.trace, member, number, WAIT, time)
        if is_broken_up(team, step_size(size, by_rows), tick):
            if member > 0:
                return
            size, last, width = 1, units, hidden
        if chunk > 1:
            project(work, steps * rows, base, inputs, weights, GATES, first, last, column * GATES)
            time = lap(work.trace, member, number, PROJECT, time)
        for s in range(steps):
            h_step = (s * batch + first_row) * h_stride
            slot = (start + s if kept else 0) * batch
            for unit in range(first, last, strip):
                end_unit = min(unit + strip, last)
                strip_column = unit * lanes(x) * GATES
                z_unit = (base + s * rows) * z_stride + strip_column
                if chunk == 1:
                    z_column = 0 if by_rows else member * strip * lanes(x) * GATES
                    z_unit = base * z_stride + z_column
                    project(work, rows, base, inputs, weights, GATES, unit, end_unit, z_column)
                    time = lap(work.trace, member, number, PROJECT, time)
                recur(
                    work.h, h_step, weights, hidden, work.z, z_unit, rows, GATES, unit, end_unit, (start + s) % 2 == 1
                )
                time = lap(work.trace, member, number, RECUR, time)
                for n in range(rows):
                    rnn_cell_forward(unit, end_unit, work.z, z_unit - strip_column + n * z_stride,
                                     work.h, h_step + (batch + n) * h_stride,
                                     states, (slot + first_row + n) * columns)  # fmt: skip
                time = lap(work.trace, member, number, CELL, time)
            tick = wait_for_team(team, member, step_size(size, by_rows), tick)
            time = lap(work.trace, member, number, WAIT, time)
        scatter_rows(work.h, (batch + first_row) * h_stride, h_stride, batch * h_stride,
                     h, start, first_row, rows, 0, steps * rows, column, width)  # fmt: skip
        for n in range(first_row, end_row):
            copy_row(work.h, (steps * batch + n) * h_stride + column, work.h, n * h_stride + column, width)
        time = lap(work.trace, member, number, SCATTER, time)
        start += steps
        number += 1
    leave_team(team, member)


@kernel
def rnn_sequence_backward(x, h0, weights, states, dh, dx, gradients, work, team, member, begin, end, chunk, by_rows):
    """Steps `end - 1 .. begin`: equations (3) to (5), by one member of a team.

    Overwrites these steps of `dx` (N, T, D) and accumulates `gradients`. The first rows of `work.dh` carry the gradient
    of the hidden state: of step `end - 1` on entry, of the state before step `begin` on return.
    """
    size, stop = enter_team(team, member, end)
    if member >= size:
        return
    tick, number, recruits = 1, 0, member == 0
    batch, length, hidden = dh.shape
    units = unit_count(x, hidden)
    columns = units * lanes(x)
    inputs, x_stride, h_stride = x.shape[2], work.x.shape[1], work.h.shape[1]
    dh_stride, dz_stride = work.dh.shape[1], work.dz.shape[1]
    while stop > begin:
        if recruits:
            size = close_team(team, stop)
            recruits, tick = size == 1, 1
        first_row, end_row = row_share(batch, member, size, by_rows)
        rows = end_row - first_row
        first, last = unit_share(units, member, size, by_rows)
        column = first * lanes(x)
        width = max(min(hidden, last * lanes(x)) - column, 0)
        steps = min(chunk, stop - begin)
        start = stop - steps
        time = begin_chunk(work.trace, member, number, start, steps)
        gather_rows(x, start, 0, batch, *share(steps * batch, member, size),
                    work.x, 0, x_stride, batch * x_stride, 0, inputs)  # fmt: skip
        gather_earlier_gradients(dh, work.dh, start, steps, first_row, end_row, first, last)
        for n in range(first_row, end_row):
            if start == 0:
                copy_row_padded(h0, n * hidden + column, work.h, n * h_stride + column, width)
            else:
                copy_row(states, ((start - 1) * batch + n) * columns + column, work.h, n * h_stride + column, width)
        time = lap(work.trace, member, number, GATHER, time)
        for s in range(steps - 1, -1, -1):
            dh_step, dz_step = s * batch * dh_stride, s * batch * dz_stride
            for n in range(first_row, end_row):
                # h of the last step is no step's previous state; it goes to the spare rows at the end.
                rnn_cell_backward(first, last, states, ((start + s) * batch + n) * columns,
                                  work.dh, dh_step + (batch + n) * dh_stride,
                                  work.h, ((s + 1) * batch + n) * h_stride,
                                  work.dz, dz_step + n * dz_stride)  # fmt: skip
                if last == units:
                    clear_padding(work.dz, dz_step + n * dz_stride, hidden, GATES)
            time = lap(work.trace, member, number, CELL, time)
            tick = wait_for_team(team, member, step_size(size, by_rows), tick)
            time = lap(work.trace, member, number, WAIT, time)
            recur_backward(work.dz, dz_step + first_row * dz_stride, weights, columns,
                           work.dh, dh_step + first_row * dh_stride, rows,
                           first, last, (start + s) % 2 == 1)  # fmt: skip
            time = lap(work.trace, member, number, RECUR, time)
        if by_rows:
            tick = wait_for_team(team, member, size, tick)
            time = lap(work.trace, member, number, WAIT, time)
        transpose_chunk(work, inputs, hidden, steps * batch, member, size)
        time = lap(work.trace, member, number, ACCUMULATE, time)
        tick = wait_for_team(team, member, size, tick)
        time = lap(work.trace, member, number, WAIT, time)
        accumulate(weights, dx, gradients, work, start, steps, hidden, GATES, stop == length, member, size)
        time = lap(work.trace, member, number, ACCUMULATE, time)
        consider_breaking_up(team, member, size, tick)
        tick = wait_for_team(team, member, size, tick)
        lap(work.trace, member, number, WAIT, time)
        stop = start
        number += 1
        if is_broken_up(team, size, tick):
            if member > 0:
                return
            size = 1
    leave_team(team, member)
