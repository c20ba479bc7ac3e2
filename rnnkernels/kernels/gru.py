"""The GRU: cell forward, cell backward, and its kernels.

    z[t] = b + x[t] @ Wx,      m[t] = bh + h[t-1] @ Wh                          (1)
    r, u = sigmoid(z_r + m_r), sigmoid(z_z + m_z)                               (2)
    n    = tanh(z_n + r * m_n)                                                  (3)
    h[t] = n + u * (h[t-1] - n)                                                 (4)

    dn = dh[t] * (1 - u),      du = dh[t] * (h[t-1] - n)                        (5)
    dz_n = dn * (1 - n**2),    dz_z = du * u * (1 - u)                          (6)
    dm_n = dz_n * r,           dz_r = dz_n * m_n * r * (1 - r)                  (7)
    dm_r, dm_z = dz_r, dz_z                                                     (8)
    dh[t-1] = dy[t-1] + dh[t] * u + dm[t] @ Wh.T                                (9)
    dx = dz @ Wx.T,  dWx = x.T @ dz,  dWh = h[t-1].T @ dm,  db = sum of dz,  dbh = sum of dm        (10)

where dy is the gradient that arrives from outside, and u is the update gate, z for callers. Columns of z and m and
of their gradients are interleaved in the order r, z, n. The tape keeps r, u, n and m_n, the track h.
"""

from rnnkernels.kernels.activations import sigmoid, tanh
from rnnkernels.kernels.cell import Cell, register
from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.layout import copy_row
from rnnkernels.kernels.passes import passes_of
from rnnkernels.kernels.simd import fma, lanes, load, negative, store

GATES = 3
KEPT = 4


@inlined
def gru_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next):
    """Units `first .. end` of a row: equations (2) to (4)."""
    step = lanes(work)
    for unit in range(first, end):
        j, q, k = unit * step, unit * step * GATES, unit * step * KEPT
        r = sigmoid(load(work, z + q) + load(work, product + q))
        m = load(work, product + q + 2 * step)
        store(tape, tape0 + k, r)
        store(tape, tape0 + k + step, sigmoid(load(work, z + q + step) + load(work, product + q + step)))
        store(tape, tape0 + k + 2 * step, fma(r, m, load(work, z + q + 2 * step)))
        store(tape, tape0 + k + 3 * step, m)
    for unit in range(first, end):
        j, k = unit * step, unit * step * KEPT
        n = tanh(load(tape, tape0 + k + 2 * step))
        store(tape, tape0 + k + 2 * step, n)
        value = fma(load(tape, tape0 + k + step), load(work, h_prev + j) - n, n)
        store(work, h + j, value)
        store(track, track_next + j, value)


@inlined
def gru_cell_output(first, end, tape, tape0, track, track0, work, h):
    """Units `first .. end` of a row: h[t] as it was kept."""
    copy_row(track, track0 + first * lanes(work), work, h + first * lanes(work), (end - first) * lanes(work))


@inlined
def gru_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                      h, dz, dm):  # fmt: skip
    """Units `first .. end` of a row: equations (5) to (8), and the middle term of (9)."""
    step = lanes(work)
    for unit in range(first, end):
        j, q, k = unit * step, unit * step * GATES, unit * step * KEPT
        r, u = load(tape, tape0 + k), load(tape, tape0 + k + step)
        n, m = load(tape, tape0 + k + 2 * step), load(tape, tape0 + k + 3 * step)
        store(work, h + j, load(track, track_next + j))
        dh_t = load(work, dh + j)
        dz_n = dh_t * (1.0 - u) * fma(negative(n), n, 1.0)
        dz_z = dh_t * (load(track, track_prev + j) - n) * u * (1.0 - u)
        dm_n = dz_n * r
        dz_r = dm_n * m * (1.0 - r)
        store(work, dz + q, dz_r)
        store(work, dz + q + step, dz_z)
        store(work, dz + q + 2 * step, dz_n)
        store(work, dm + q, dz_r)
        store(work, dm + q + step, dz_z)
        store(work, dm + q + 2 * step, dm_n)
        store(work, dh_prev + j, fma(dh_t, u, load(work, dh_prev + j)))


FORWARD, BACKWARD, STREAM = passes_of(
    "gru",
    GATES=GATES,
    BIASES=2,
    KEPT=KEPT,
    cell_forward=gru_cell_forward,
    cell_output=gru_cell_output,
    cell_backward=gru_cell_backward,
)

CELL = register(
    Cell(
        name="gru",
        gates=("r", "z", "n"),
        biases=("b", "bh"),
        states=("h",),
        tracked="h",
        tape=("r", "z", "n", "hn"),
        cure_of_pytorch="",
        sigmoids=2,
        tanhs=1,
        backward_tanhs=0,
        forward=FORWARD,
        backward=BACKWARD,
        stream=STREAM,
    )
)
