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
from rnnkernels.kernels.layout import copy_row, copy_row_padded, scatter_steps, unit_count
from rnnkernels.kernels.micro_kernel import multiply, panel_width
from rnnkernels.kernels.phases import accumulate, gather_earlier_gradients, project
from rnnkernels.kernels.simd import fma, lanes, load, store


@inlined
def rnn_cell_forward(units, z, z0, h, h0, states, states0):
    """One row of equation (2); overwrites the rows of `h` and `states` with h[t]."""
    for j in range(0, units * lanes(z), lanes(z)):
        value = tanh(load(z, z0 + j))
        store(h, h0 + j, value)
        store(states, states0 + j, value)


@inlined
def rnn_cell_backward(units, states, states0, dh, dh0, h, h0, dz, dz0):
    """One row of equation (3); overwrites the rows of `dz` with dz[t] and of `h` with h[t]."""
    for j in range(0, units * lanes(dz), lanes(dz)):
        value = load(states, states0 + j)
        store(h, h0 + j, value)
        store(dz, dz0 + j, load(dh, dh0 + j) * fma(0.0 - value, value, 1.0))


@kernel
def rnn_sequence_forward(x, weights, h, states, work, first, rows, begin, end, chunk):
    """Steps `begin .. end` of rows `first .. first + rows`: equations (1) and (2).

    Overwrites these parts of `h` (N, T, H) and of `states` (T, N, U * L); states of shape (1, N, U * L) keeps one step.
    `work.h` carries the hidden state.
    """
    hidden, batch = h.shape[2], states.shape[1]
    units = unit_count(x, hidden)
    columns = units * lanes(x)
    panels = (columns + panel_width(x) - 1) // panel_width(x)
    z_stride, h_stride = work.z.shape[1], work.h.shape[1]
    kept = states.shape[0] == h.shape[1]
    for start in range(begin, end, chunk):
        steps = min(chunk, end - start)
        project(x, weights, work, first, rows, start, steps, panels)
        for s in range(steps):
            z_step, h_step = s * rows * z_stride, s * rows * h_stride
            multiply(work.h, h_step, h_stride, 1, rows, weights.Wh, 0, hidden, panels,
                     work.z, z_step, z_stride, work.z, z_step, z_stride)  # fmt: skip
            slot = (start + s if kept else 0) * batch + first
            for n in range(rows):
                rnn_cell_forward(units, work.z, z_step + n * z_stride, work.h, h_step + (rows + n) * h_stride,
                                 states, (slot + n) * columns)  # fmt: skip
        scatter_steps(work.h, rows * h_stride, h_stride, h, first, rows, start, steps)
        copy_row(work.h, steps * rows * h_stride, work.h, 0, rows * h_stride)


@kernel
def rnn_sequence_backward(x, h0, weights, states, dh, dx, gradients, work, first, rows, begin, end, chunk):
    """Steps `end - 1 .. begin` of rows `first .. first + rows`: equations (3) to (5).

    Overwrites these parts of `dx` (N, T, D) and accumulates `gradients`. The first rows of `work.dh` carry the
    gradient of the hidden state: of step `end - 1` on entry, of the state before step `begin` on return.
    """
    hidden, batch = dh.shape[2], states.shape[1]
    units = unit_count(x, hidden)
    columns = units * lanes(x)
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
                copy_row(states, ((start - 1) * batch + first + n) * columns, work.h, n * h_stride, columns)
        for s in range(steps - 1, -1, -1):
            dh_step, dz_step = s * rows * dh_stride, s * rows * dz_stride
            for n in range(rows):
                # h of the last step is no step's previous state; it goes to the spare rows at the end.
                rnn_cell_backward(units, states, ((start + s) * batch + first + n) * columns,
                                  work.dh, dh_step + (rows + n) * dh_stride,
                                  work.h, ((s + 1) * rows + n) * h_stride,
                                  work.dz, dz_step + n * dz_stride)  # fmt: skip
            multiply(work.dz, dz_step, dz_stride, 1, rows, weights.Wh, 0, columns, panels,
                     work.dh, dh_step, dh_stride, work.dh, dh_step, dh_stride)  # fmt: skip
        accumulate(x, weights, dx, gradients, work, first, rows, start, steps, hidden, columns)
