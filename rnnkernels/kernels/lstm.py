"""The LSTM: cell forward, cell backward, sequence forward, sequence backward.

    z[t] = b + x[t] @ Wx + h[t-1] @ Wh                                          (1)
    i, f, o, g = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o), tanh(z_g)            (2)
    c[t] = f * c[t-1] + i * g                                                   (3)
    h[t] = o * tanh(c[t])                                                       (4)

    dc[t] += dh[t] * o * (1 - tanh(c[t])**2)                                    (5)
    dz_i = dc[t] * g * i * (1 - i),      dz_f = dc[t] * c[t-1] * f * (1 - f)    (6)
    dz_o = dh[t] * tanh(c[t]) * o * (1 - o),   dz_g = dc[t] * i * (1 - g**2)    (7)
    dc[t-1] = dc[t] * f,      dh[t-1] = dy[t-1] + dz[t] @ Wh.T                  (8)
    dx = dz @ Wx.T,  dWx = x.T @ dz,  dWh = h[t-1].T @ dz,  db = sum of dz      (9)

where dy is the gradient that arrives from outside. Columns of z, dz and the gates are interleaved in the order
i, f, o, g. The forward pass keeps the gates and c; h comes back from them by (4).
"""

from rnnkernels.kernels.activations import sigmoid, tanh
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

GATES = 4


@inlined
def lstm_cell_forward(first, end, z, z0, gates, gates0, cells, c_prev0, c_next0, h, h0):
    """Units `first .. end` of a row: equations (2) to (4); overwrites them in `gates`, `h`, and `cells` at c_next0.

    In two loops, so that no tanh waits for the sigmoids of its own unit: such chains are longer than what a processor
    looks ahead.
    """
    step = lanes(z)
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        i = sigmoid(load(z, z0 + q))
        f = sigmoid(load(z, z0 + q + step))
        g = tanh(load(z, z0 + q + 3 * step))
        store(gates, gates0 + q, i)
        store(gates, gates0 + q + step, f)
        store(gates, gates0 + q + 3 * step, g)
        store(cells, c_next0 + j, fma(f, load(cells, c_prev0 + j), i * g))
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        o = sigmoid(load(z, z0 + q + 2 * step))
        store(gates, gates0 + q + 2 * step, o)
        store(h, h0 + j, o * tanh(load(cells, c_next0 + j)))


@inlined
def lstm_cell_output(first, end, gates, gates0, cells, c0, h, h0):
    """Units `first .. end` of a row: equation (4), from kept gates and cell states; overwrites them in `h`."""
    step = lanes(gates)
    for u in range(first, end):
        o = load(gates, gates0 + (u * GATES + 2) * step)
        store(h, h0 + u * step, o * tanh(load(cells, c0 + u * step)))


@inlined
def lstm_cell_backward(first, end, gates, gates0, cells, c_prev0, c_next0, dh, dh0, dc, dc0, h, h0, dz, dz0):
    """Units `first .. end` of a row: equations (4) to (8); overwrites them in `h`, `dz`, and dc[t] by dc[t-1]."""
    step = lanes(dz)
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        i, f = load(gates, gates0 + q), load(gates, gates0 + q + step)
        o, g = load(gates, gates0 + q + 2 * step), load(gates, gates0 + q + 3 * step)
        tanh_c = tanh(load(cells, c_next0 + j))
        store(h, h0 + j, o * tanh_c)
        dh_o = load(dh, dh0 + j) * o
        dc_t = fma(dh_o, fma(negative(tanh_c), tanh_c, 1.0), load(dc, dc0 + j))
        dc_i = dc_t * i
        dc_f = dc_t * f
        store(dz, dz0 + q, dc_i * g * (1.0 - i))
        store(dz, dz0 + q + step, dc_f * load(cells, c_prev0 + j) * (1.0 - f))
        store(dz, dz0 + q + 2 * step, dh_o * tanh_c * (1.0 - o))
        store(dz, dz0 + q + 3 * step, dc_i * fma(negative(g), g, 1.0))
        store(dc, dc0 + j, dc_f)


@kernel
def lstm_sequence_forward(x, weights, h, gates, cells, work, team, member, begin, end, chunk, strip, by_rows):
    """Steps `begin .. end`: equations (1) to (4), by one member of a team.

    Overwrites these steps of `h` (N, T, H), of `gates` (T, N, U * 4 * L) and of `cells` (T + 1, N, U * L), whose step
    t + 1 follows step t. Gates and cells of length 1 keep the last step only. `work.h` carries the hidden state. The
    units are taken in strips of `strip`, a multiple of a panel. Where a chunk is a single step, each strip is projected
    when its turn comes, and `work.z` holds one strip of each member.
    """
    size, start = enter_team(team, member, begin)
    if member >= size:
        return
    tick, number, recruits = 1, 0, member == 0
    batch, _, hidden = h.shape
    units = unit_count(x, hidden)
    cell_columns = units * lanes(x)
    columns = cell_columns * GATES
    inputs, x_stride, z_stride, h_stride = x.shape[2], work.x.shape[1], work.z.shape[1], work.h.shape[1]
    kept = cells.shape[0] > 1
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
            slot = (start + s) * batch if kept else 0
            next_slot = slot + batch if kept else 0
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
                    row = slot + first_row + n
                    next_row = next_slot + first_row + n
                    lstm_cell_forward(unit, end_unit, work.z, z_unit - strip_column + n * z_stride,
                                      gates, row * columns,
                                      cells, row * cell_columns, next_row * cell_columns,
                                      work.h, h_step + (batch + n) * h_stride)  # fmt: skip
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
def lstm_sequence_backward(x, h0, weights, gates, cells, dh, dc, dx, gradients, work,
                           team, member, begin, end, chunk, by_rows):  # fmt: skip
    """Steps `end - 1 .. begin`: equations (4) to (9), by one member of a team.

    Overwrites these steps of `dx` (N, T, D), takes `dc` (N, U * L) from the last step to before the first, and
    accumulates `gradients`. The first rows of `work.dh` carry the gradient of the hidden state: of step `end - 1` on
    entry, of the state before step `begin` on return.
    """
    size, stop = enter_team(team, member, end)
    if member >= size:
        return
    tick, number, recruits = 1, 0, member == 0
    batch, length, hidden = dh.shape
    units = unit_count(x, hidden)
    cell_columns = units * lanes(x)
    columns = cell_columns * GATES
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
                slot = (start - 1) * batch + n
                lstm_cell_output(first, last, gates, slot * columns, cells, (slot + batch) * cell_columns,
                                 work.h, n * h_stride)  # fmt: skip
        time = lap(work.trace, member, number, GATHER, time)
        for s in range(steps - 1, -1, -1):
            dh_step, dz_step = s * batch * dh_stride, s * batch * dz_stride
            slot = (start + s) * batch
            for n in range(first_row, end_row):
                # h of the last step is no step's previous state; it goes to the spare rows at the end.
                lstm_cell_backward(first, last, gates, (slot + n) * columns,
                                   cells, (slot + n) * cell_columns, (slot + batch + n) * cell_columns,
                                   work.dh, dh_step + (batch + n) * dh_stride, dc, n * cell_columns,
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
