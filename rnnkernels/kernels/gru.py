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

Where the reset gate acts before the product, q = r * h[t-1] takes the place of m_n in the tape, and n is late::

    m_n  = bh_n + q @ Wh_n,    n = tanh(z_n + m_n)                              (3')
    dm_n = dz_n,               dq = dz_n @ Wh_n.T                               (7')
    dz_r = dq * h[t-1] * r * (1 - r)                                            (7'')
    dh[t-1] = dy[t-1] + dh[t] * u + dq * r + dm_rz[t] @ Wh_rz.T                 (9')
    dWh_n = q.T @ dm_n                                                          (10')
"""

from rnnkernels.kernels.activations import left_of_sigmoid, sigmoid_within, slope_of_tanh, tanh_within
from rnnkernels.kernels.cell import Cell, register
from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.layout import copy_row
from rnnkernels.kernels.passes import passes_of
from rnnkernels.kernels.simd import fma, lanes, load, store, without_tiny

GATES = 3
EARLY = 2
KEPT = 4


@inlined
def gru_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own,
                     own0, clip):  # fmt: skip
    """Units `first .. end` of a row: equations (2) to (4)."""
    step = lanes(work)
    for unit in range(first, end):
        j, q, k = unit * step, unit * step * GATES, unit * step * KEPT
        r = sigmoid_within(load(work, z + q) + load(work, product + q), clip)
        m = load(work, product + q + 2 * step)
        store(tape, tape0 + k, r)
        u = sigmoid_within(load(work, z + q + step) + load(work, product + q + step), clip)
        store(tape, tape0 + k + step, u)
        store(tape, tape0 + k + 2 * step, fma(r, m, load(work, z + q + 2 * step)))
        store(tape, tape0 + k + 3 * step, m)
    for unit in range(first, end):
        j, k = unit * step, unit * step * KEPT
        n = tanh_within(load(tape, tape0 + k + 2 * step), clip)
        store(tape, tape0 + k + 2 * step, n)
        value = without_tiny(fma(load(tape, tape0 + k + step), load(work, h_prev + j) - n, n))
        store(work, h + j, value)
        store(track, track_next + j, value)


@inlined
def gru_cell_output(first, end, tape, tape0, track, track0, work, h):
    """Units `first .. end` of a row: h[t] as it was kept."""
    copy_row(track, track0 + first * lanes(work), work, h + first * lanes(work), (end - first) * lanes(work))


@inlined
def gru_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                      h, dz, dm, own, own0, bounds):  # fmt: skip
    """Units `first .. end` of a row: equations (5) to (8), and the middle term of (9)."""
    step = lanes(work)
    for unit in range(first, end):
        j, q, k = unit * step, unit * step * GATES, unit * step * KEPT
        r, u = load(tape, tape0 + k), load(tape, tape0 + k + step)
        n, m = load(tape, tape0 + k + 2 * step), load(tape, tape0 + k + 3 * step)
        store(work, h + j, load(track, track_next + j))
        dh_t = load(work, dh + j)
        dz_n = without_tiny(dh_t * (1.0 - u) * slope_of_tanh(n, bounds))
        dz_z = without_tiny(dh_t * (load(track, track_prev + j) - n) * u * left_of_sigmoid(u, bounds))
        dm_n = without_tiny(dz_n * r)
        dz_r = without_tiny(dm_n * m * left_of_sigmoid(r, bounds))
        store(work, dz + q, dz_r)
        store(work, dz + q + step, dz_z)
        store(work, dz + q + 2 * step, dz_n)
        store(work, dm + q, dz_r)
        store(work, dm + q + step, dz_z)
        store(work, dm + q + 2 * step, dm_n)
        store(work, dh_prev + j, without_tiny(fma(dh_t, u, load(work, dh_prev + j))))


@inlined
def gru_before_between(first, end, work, z, product, h_prev, q, tape, tape0, clip):
    """Units `first .. end` of a row: equation (2), and q."""
    step = lanes(work)
    for unit in range(first, end):
        j, gates, m, k = unit * step, unit * step * GATES, unit * step * EARLY, unit * step * KEPT
        r = sigmoid_within(load(work, z + gates) + load(work, product + m), clip)
        reset = r * load(work, h_prev + j)
        store(tape, tape0 + k, r)
        u = sigmoid_within(load(work, z + gates + step) + load(work, product + m + step), clip)
        store(tape, tape0 + k + step, u)
        store(tape, tape0 + k + 3 * step, reset)
        store(work, q + j, reset)


@inlined
def gru_before_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own,
                            own0, clip):  # fmt: skip
    """Units `first .. end` of a row: equations (3') and (4)."""
    step = lanes(work)
    for unit in range(first, end):
        j, k = unit * step, unit * step * KEPT
        n = tanh_within(load(work, z + unit * step * GATES + 2 * step) + load(work, product + j), clip)
        u = load(tape, tape0 + k + step)
        value = without_tiny(fma(u, load(work, h_prev + j) - n, n))
        store(tape, tape0 + k + 2 * step, n)
        store(work, h + j, value)
        store(track, track_next + j, value)


@inlined
def gru_before_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                             h, dz, dm, own, own0, bounds):  # fmt: skip
    """Units `first .. end` of a row: equations (5) and (6), dm_n, and the second term of (9')."""
    step = lanes(work)
    for unit in range(first, end):
        j, gates, k = unit * step, unit * step * GATES, unit * step * KEPT
        u, n = load(tape, tape0 + k + step), load(tape, tape0 + k + 2 * step)
        store(work, h + j, load(track, track_next + j))
        dh_t = load(work, dh + j)
        dz_n = without_tiny(dh_t * (1.0 - u) * slope_of_tanh(n, bounds))
        dz_z = without_tiny(dh_t * (load(track, track_prev + j) - n) * u * left_of_sigmoid(u, bounds))
        store(work, dz + gates + step, dz_z)
        store(work, dz + gates + 2 * step, dz_n)
        store(work, dm + j, dz_n)
        store(work, dh_prev + j, fma(dh_t, u, load(work, dh_prev + j)))


@inlined
def gru_before_between_backward(first, end, tape, tape0, track, track_prev, work, dq, dh_prev, q, dz, dm,
                                bounds):  # fmt: skip
    """Units `first .. end` of a row: equation (7''), dm of r and z, and the third term of (9')."""
    step = lanes(work)
    for unit in range(first, end):
        j, gates, m, k = unit * step, unit * step * GATES, unit * step * EARLY, unit * step * KEPT
        r, dq_r = load(tape, tape0 + k), load(work, dq + j) * load(tape, tape0 + k)
        dz_r = without_tiny(dq_r * load(track, track_prev + j) * left_of_sigmoid(r, bounds))
        store(work, q + j, load(tape, tape0 + k + 3 * step))
        store(work, dz + gates, dz_r)
        store(work, dm + m, dz_r)
        store(work, dm + m + step, load(work, dz + gates + step))
        store(work, dh_prev + j, without_tiny(load(work, dh_prev + j) + dq_r))


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

BEFORE_FORWARD, BEFORE_BACKWARD, BEFORE_STREAM = passes_of(
    "gru_before",
    GATES=GATES,
    BIASES=2,
    KEPT=KEPT,
    LATE=1,
    cell_forward=gru_before_cell_forward,
    cell_output=gru_cell_output,
    cell_backward=gru_before_cell_backward,
    cell_between=gru_before_between,
    cell_between_backward=gru_before_between_backward,
)

RESET_BEFORE = register(
    CELL._replace(
        variant="reset_before",
        options=(("reset_after", False),),
        late=1,
        tape=("r", "z", "n", "rh"),
        forward=BEFORE_FORWARD,
        backward=BEFORE_BACKWARD,
        stream=BEFORE_STREAM,
    )
)
"""The GRU whose reset gate acts before the product."""
