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
from rnnkernels.kernels.layout import copy_row, copy_row_padded, scatter_steps, unit_count
from rnnkernels.kernels.micro_kernel import multiply, panel_width
from rnnkernels.kernels.phases import accumulate, gather_earlier_gradients, project
from rnnkernels.kernels.simd import fma, lanes, load, store

GATES = 4


@inlined
def lstm_cell_forward(units, z, z0, gates, gates0, cells, c_prev0, c_next0, h, h0):
    """One row of equations (2) to (4); overwrites the rows of `gates`, of `cells` at c_next0, and of `h`."""
    step = lanes(z)
    for u in range(units):
        j, q = u * step, u * step * GATES
        i = sigmoid(load(z, z0 + q))
        f = sigmoid(load(z, z0 + q + step))
        o = sigmoid(load(z, z0 + q + 2 * step))
        g = tanh(load(z, z0 + q + 3 * step))
        c = fma(f, load(cells, c_prev0 + j), i * g)
        store(gates, gates0 + q, i)
        store(gates, gates0 + q + step, f)
        store(gates, gates0 + q + 2 * step, o)
        store(gates, gates0 + q + 3 * step, g)
        store(cells, c_next0 + j, c)
        store(h, h0 + j, o * tanh(c))


@inlined
def lstm_cell_output(units, gates, gates0, cells, c0, h, h0):
    """One row of equation (4) from kept gates and cell states; overwrites the row of `h`."""
    step = lanes(gates)
    for u in range(units):
        o = load(gates, gates0 + (u * GATES + 2) * step)
        store(h, h0 + u * step, o * tanh(load(cells, c0 + u * step)))


@inlined
def lstm_cell_backward(units, gates, gates0, cells, c_prev0, c_next0, dh, dh0, dc, dc0, h, h0, dz, dz0):
    """One row of equations (4) to (8); overwrites the rows of `h` and `dz`, and dc[t] in `dc` with dc[t-1]."""
    step = lanes(dz)
    for u in range(units):
        j, q = u * step, u * step * GATES
        i, f = load(gates, gates0 + q), load(gates, gates0 + q + step)
        o, g = load(gates, gates0 + q + 2 * step), load(gates, gates0 + q + 3 * step)
        tanh_c = tanh(load(cells, c_next0 + j))
        store(h, h0 + j, o * tanh_c)
        dh_o = load(dh, dh0 + j) * o
        dc_t = fma(dh_o, fma(0.0 - tanh_c, tanh_c, 1.0), load(dc, dc0 + j))
        dc_i = dc_t * i
        dc_f = dc_t * f
        store(dz, dz0 + q, dc_i * g * (1.0 - i))
        store(dz, dz0 + q + step, dc_f * load(cells, c_prev0 + j) * (1.0 - f))
        store(dz, dz0 + q + 2 * step, dh_o * tanh_c * (1.0 - o))
        store(dz, dz0 + q + 3 * step, dc_i * fma(0.0 - g, g, 1.0))
        store(dc, dc0 + j, dc_f)


@kernel
def lstm_sequence_forward(x, weights, h, gates, cells, work, first, rows, begin, end, chunk):
    """Steps `begin .. end` of rows `first .. first + rows`: equations (1) to (4).

    Overwrites these parts of `h` (N, T, H), of `gates` (T, N, U * 4 * L) and of `cells` (T + 1, N, U * L), whose step
    t + 1 follows step t. Gates and cells of length 1 keep the last step only. `work.h` carries the hidden state.
    """
    hidden, batch = h.shape[2], gates.shape[1]
    units = unit_count(x, hidden)
    columns = units * lanes(x) * GATES
    cell_columns = units * lanes(x)
    panels = (columns + panel_width(x) - 1) // panel_width(x)
    z_stride, h_stride = work.z.shape[1], work.h.shape[1]
    kept = cells.shape[0] > 1
    for start in range(begin, end, chunk):
        steps = min(chunk, end - start)
        project(x, weights, work, first, rows, start, steps, panels)
        for s in range(steps):
            z_step, h_step = s * rows * z_stride, s * rows * h_stride
            multiply(work.h, h_step, h_stride, 1, rows, weights.Wh, 0, hidden, panels,
                     work.z, z_step, z_stride, work.z, z_step, z_stride)  # fmt: skip
            slot = (start + s) * batch + first if kept else first
            next_slot = slot + batch if kept else slot
            for n in range(rows):
                lstm_cell_forward(units, work.z, z_step + n * z_stride, gates, (slot + n) * columns,
                                  cells, (slot + n) * cell_columns, (next_slot + n) * cell_columns,
                                  work.h, h_step + (rows + n) * h_stride)  # fmt: skip
        scatter_steps(work.h, rows * h_stride, h_stride, h, first, rows, start, steps)
        copy_row(work.h, steps * rows * h_stride, work.h, 0, rows * h_stride)


@kernel
def lstm_sequence_backward(x, h0, weights, gates, cells, dh, dc, dx, gradients, work,
                           first, rows, begin, end, chunk):  # fmt: skip
    """Steps `end - 1 .. begin` of rows `first .. first + rows`: equations (4) to (9).

    Overwrites these parts of `dx` (N, T, D), takes `dc` (N, U * L) from the last step to before the first, and
    accumulates `gradients`. The first rows of `work.dh` carry the gradient of the hidden state: of step `end - 1` on
    entry, of the state before step `begin` on return.
    """
    hidden, batch = dh.shape[2], gates.shape[1]
    units = unit_count(x, hidden)
    columns = units * lanes(x) * GATES
    cell_columns = units * lanes(x)
    panels = (hidden + panel_width(x) - 1) // panel_width(x)
    h_stride, dh_stride, dz_stride = work.h.shape[1], work.dh.shape[1], work.dz.shape[1]
    for stop in range(end, begin, -chunk):
        steps = min(chunk, stop - begin)
        start = stop - steps
        gather_earlier_gradients(dh, work.dh, first, rows, start, steps)
        for n in range(rows):
            if start == 0:
                copy_row_padded(h0, (first + n) * hidden, work.h, n * h_stride, hidden)
            else:
                slot = (start - 1) * batch + first + n
                lstm_cell_output(units, gates, slot * columns, cells, (slot + batch) * cell_columns,
                                 work.h, n * h_stride)  # fmt: skip
        for s in range(steps - 1, -1, -1):
            dh_step, dz_step = s * rows * dh_stride, s * rows * dz_stride
            slot = (start + s) * batch + first
            for n in range(rows):
                # h of the last step is no step's previous state; it goes to the spare rows at the end.
                lstm_cell_backward(units, gates, (slot + n) * columns,
                                   cells, (slot + n) * cell_columns, (slot + batch + n) * cell_columns,
                                   work.dh, dh_step + (rows + n) * dh_stride, dc, (first + n) * cell_columns,
                                   work.h, ((s + 1) * rows + n) * h_stride,
                                   work.dz, dz_step + n * dz_stride)  # fmt: skip
            multiply(work.dz, dz_step, dz_stride, 1, rows, weights.Wh, 0, columns, panels,
                     work.dh, dh_step, dh_stride, work.dh, dh_step, dh_stride)  # fmt: skip
        accumulate(x, weights, dx, gradients, work, first, rows, start, steps, hidden, columns)
