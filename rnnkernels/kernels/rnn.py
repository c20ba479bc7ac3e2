"""The vanilla RNN: cell forward, cell backward, and its kernels.

    z[t] = b + x[t] @ Wx + h[t-1] @ Wh                                          (1)
    h[t] = tanh(z[t])                                                           (2)

    dz[t] = dh[t] * (1 - h[t]**2)                                               (3)
    dh[t-1] = dy[t-1] + dz[t] @ Wh.T                                            (4)
    dx = dz @ Wx.T,  dWx = x.T @ dz,  dWh = h[t-1].T @ dz,  db = sum of dz      (5)

where dy is the gradient that arrives from outside. The track keeps h; the tape keeps nothing.
"""

from rnnkernels.kernels.activations import tanh
from rnnkernels.kernels.cell import Cell, register
from rnnkernels.kernels.jit import inlined, kernel
from rnnkernels.kernels.layout import copy_row
from rnnkernels.kernels.passes import backward_pass, forward_pass, stream_pass
from rnnkernels.kernels.phases import Weights
from rnnkernels.kernels.simd import fma, lanes, load, negative, store

GATES = 1


@inlined
def rnn_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next):
    """Units `first .. end` of a row: equation (2)."""
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        value = tanh(load(work, z + j))
        store(work, h + j, value)
        store(track, track_next + j, value)


@inlined
def rnn_cell_output(first, end, tape, tape0, track, track0, work, h):
    """Units `first .. end` of a row: h[t] as it was kept."""
    copy_row(track, track0 + first * lanes(work), work, h + first * lanes(work), (end - first) * lanes(work))


@inlined
def rnn_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                      h, dz, dm):  # fmt: skip
    """Units `first .. end` of a row: equation (3)."""
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        value = load(track, track_next + j)
        store(work, h + j, value)
        store(work, dz + j, load(work, dh + j) * fma(negative(value), value, 1.0))


@kernel
def rnn_sequence_forward(x, h0, track0, Wx, Wh, biases, h, tape, track, work, trace, team, member,
                         packed, begin, end, chunk, strip, places, by_rows):  # fmt: skip
    """See `passes.forward_pass`."""
    forward_pass(rnn_cell_forward, GATES, x, h0, track0, Wx, Wh, biases, h, tape, track, work, trace, team, member,
                 Weights(Wx, 0, Wh, 0, packed), begin, end, chunk, strip, places, by_rows)  # fmt: skip


@kernel
def rnn_sequence_backward(x, h0, Wx, Wh, tape, track, dh, dlast, dtrack, dx, dh0, dWx, dWh, dbs, work, trace,
                          team, member, packed, begin, end, chunk, places, blocked, by_rows):  # fmt: skip
    """See `passes.backward_pass`."""
    backward_pass(rnn_cell_backward, rnn_cell_output, GATES, x, h0, tape, track, dh, dlast, dtrack,
                  dx, dh0, dWx, dWh, dbs, work, trace, team, member,
                  Weights(Wx, 0, Wh, 0, packed), begin, end, chunk, places, blocked, by_rows)  # fmt: skip


@kernel
def rnn_stream_forward(x, weights, memory, h, batch, begin, end):
    """See `passes.stream_pass`."""
    stream_pass(rnn_cell_forward, GATES, 1, 0, x, weights, memory, h, batch, begin, end)


register(
    Cell(
        name="rnn",
        gates=("h",),
        biases=("b",),
        states=("h",),
        tracked="h",
        tape=(),
        sigmoids=0,
        tanhs=1,
        backward_tanhs=0,
        forward=rnn_sequence_forward,
        backward=rnn_sequence_backward,
        stream=rnn_stream_forward,
    )
)
