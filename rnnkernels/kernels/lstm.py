"""The LSTM: cell forward, cell backward, and its kernels.

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
i, f, o, g. The tape keeps the gates, the track c; h comes back from them by (4).
"""

from rnnkernels.kernels.activations import sigmoid, tanh
from rnnkernels.kernels.cell import Cell, register
from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.passes import passes_of
from rnnkernels.kernels.simd import fma, lanes, load, negative, store, without_tiny

GATES = 4


@inlined
def lstm_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next):
    """Units `first .. end` of a row: equations (2) to (4).

    In two loops, so that no tanh waits for the sigmoids of its own unit: such chains are longer than what a processor
    looks ahead.
    """
    step = lanes(work)
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        i = sigmoid(load(work, z + q))
        f = sigmoid(load(work, z + q + step))
        g = tanh(load(work, z + q + 3 * step))
        store(tape, tape0 + q, i)
        store(tape, tape0 + q + step, f)
        store(tape, tape0 + q + 3 * step, g)
        store(track, track_next + j, without_tiny(fma(f, load(track, track_prev + j), i * g)))
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        o = sigmoid(load(work, z + q + 2 * step))
        store(tape, tape0 + q + 2 * step, o)
        store(work, h + j, without_tiny(o * tanh(load(track, track_next + j))))


@inlined
def lstm_cell_output(first, end, tape, tape0, track, track0, work, h):
    """Units `first .. end` of a row: equation (4)."""
    step = lanes(work)
    for u in range(first, end):
        o = load(tape, tape0 + (u * GATES + 2) * step)
        store(work, h + u * step, without_tiny(o * tanh(load(track, track0 + u * step))))


@inlined
def lstm_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                       h, dz, dm):  # fmt: skip
    """Units `first .. end` of a row: equations (4) to (8)."""
    step = lanes(work)
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        i, f = load(tape, tape0 + q), load(tape, tape0 + q + step)
        o, g = load(tape, tape0 + q + 2 * step), load(tape, tape0 + q + 3 * step)
        tanh_c = tanh(load(track, track_next + j))
        store(work, h + j, without_tiny(o * tanh_c))
        dh_o = load(work, dh + j) * o
        dc_t = fma(dh_o, fma(negative(tanh_c), tanh_c, 1.0), load(dtrack, dtrack0 + j))
        dc_i = dc_t * i
        dc_f = without_tiny(dc_t * f)
        store(work, dz + q, without_tiny(dc_i * g * (1.0 - i)))
        store(work, dz + q + step, without_tiny(dc_f * load(track, track_prev + j) * (1.0 - f)))
        store(work, dz + q + 2 * step, without_tiny(dh_o * tanh_c * (1.0 - o)))
        store(work, dz + q + 3 * step, without_tiny(dc_i * fma(negative(g), g, 1.0)))
        store(dtrack, dtrack0 + j, dc_f)


FORWARD, BACKWARD, STREAM = passes_of(
    "lstm",
    GATES=GATES,
    BIASES=1,
    KEPT=GATES,
    cell_forward=lstm_cell_forward,
    cell_output=lstm_cell_output,
    cell_backward=lstm_cell_backward,
)

CELL = register(
    Cell(
        name="lstm",
        gates=("i", "f", "o", "g"),
        biases=("b",),
        states=("h", "c"),
        tracked="c",
        tape=("i", "f", "o", "g"),
        cure_of_pytorch=", and exchange its last two blocks",
        sigmoids=3,
        tanhs=2,
        backward_tanhs=1,
        forward=FORWARD,
        backward=BACKWARD,
        stream=STREAM,
    )
)
