"""The vanilla RNN: cell forward, cell backward, and its kernels.

    z[t] = b + x[t] @ Wx + h[t-1] @ Wh                                          (1)
    h[t] = tanh(z[t])                                                           (2)
    h[t] = max(z[t], 0), with relu                                              (2')

    dz[t] = dh[t] * (1 - h[t]**2)                                               (3)
    dz[t] = dh[t] where h[t] > 0, elsewhere 0, with relu                        (3')
    dh[t-1] = dy[t-1] + dz[t] @ Wh.T                                            (4)
    dx = dz @ Wx.T,  dWx = x.T @ dz,  dWh = h[t-1].T @ dz,  db = sum of dz      (5)

where dy is the gradient that arrives from outside. The track keeps h; the tape keeps nothing.
"""

import math

from rnnkernels.kernels.activations import slope_of_tanh, tanh_within
from rnnkernels.kernels.cell import Cell, register
from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.layout import copy_row
from rnnkernels.kernels.passes import passes_of
from rnnkernels.kernels.simd import (
    clamp_above,
    clamp_below,
    lanes,
    load,
    negative,
    splat,
    store,
    where_negative,
    without_tiny,
)

GATES = 1


@inlined
def rnn_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own,
                     own0, clip):  # fmt: skip
    """Units `first .. end` of a row: equation (2)."""
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        value = without_tiny(tanh_within(load(work, z + j), clip))
        store(work, h + j, value)
        store(track, track_next + j, value)


@inlined
def rnn_cell_output(first, end, tape, tape0, track, track0, work, h):
    """Units `first .. end` of a row: h[t] as it was kept."""
    copy_row(track, track0 + first * lanes(work), work, h + first * lanes(work), (end - first) * lanes(work))


@inlined
def rnn_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                      h, dz, dm, own, own0, bounds):  # fmt: skip
    """Units `first .. end` of a row: equation (3)."""
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        value = load(track, track_next + j)
        store(work, h + j, value)
        store(work, dz + j, without_tiny(load(work, dh + j) * slope_of_tanh(value, bounds)))


@inlined
def relu_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own,
                      own0, clip):  # fmt: skip
    """Units `first .. end` of a row: equation (2')."""
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        value = without_tiny(clamp_above(clamp_below(load(work, z + j), 0.0), clip))
        store(work, h + j, value)
        store(track, track_next + j, value)


@inlined
def relu_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                       h, dz, dm, own, own0, bounds):  # fmt: skip
    """Units `first .. end` of a row: equation (3')."""
    zero = splat(work, 0.0)
    for j in range(first * lanes(work), end * lanes(work), lanes(work)):
        value = load(track, track_next + j)
        store(work, h + j, value)
        dz_t = where_negative(negative(value), load(work, dh + j), zero)
        if bounds.clip < math.inf:
            dz_t = where_negative(value - bounds.clip, dz_t, zero)
        store(work, dz + j, without_tiny(dz_t))


FORWARD, BACKWARD, STREAM = passes_of(
    "rnn",
    GATES=GATES,
    BIASES=1,
    KEPT=0,
    cell_forward=rnn_cell_forward,
    cell_output=rnn_cell_output,
    cell_backward=rnn_cell_backward,
)

CELL = register(
    Cell(
        name="rnn",
        gates=("h",),
        biases=("b",),
        states=("h",),
        tracked="h",
        tape=(),
        cure_of_pytorch="",
        sigmoids=0,
        tanhs=1,
        backward_tanhs=0,
        forward=FORWARD,
        backward=BACKWARD,
        stream=STREAM,
    )
)

RELU_FORWARD, RELU_BACKWARD, RELU_STREAM = passes_of(
    "rnn_relu",
    GATES=GATES,
    BIASES=1,
    KEPT=0,
    cell_forward=relu_cell_forward,
    cell_output=rnn_cell_output,
    cell_backward=relu_cell_backward,
)

RELU = register(
    CELL._replace(
        variant="relu",
        options=(("activation", "relu"),),
        tanhs=0,
        forward=RELU_FORWARD,
        backward=RELU_BACKWARD,
        stream=RELU_STREAM,
    )
)
"""The vanilla RNN with relu."""
