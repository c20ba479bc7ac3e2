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

With peepholes the gates see the cell state, which a clip keeps within bounds::

    i, f = sigmoid_within(z_i + p_i * c[t-1]), sigmoid(z_f + p_f * c[t-1])             (2', clip)
    o    = sigmoid(z_o + p_o * c[t])                                            (2'')
    c[t] = clip(f * c[t-1] + i * g, -bound, bound)                              (3')

    dc[t]  += dz_o * p_o, and then 0 where |c[t]| >= bound                      (5')
    dc[t-1] = dc[t] * f + dz_i * p_i + dz_f * p_f                               (8')
    dp_i, dp_f, dp_o = sums of dz_i * c[t-1], dz_f * c[t-1], dz_o * c[t]        (9')

p and bound are the gates of a second bias that is for the row functions: i, f, o, and bound in the place of g. Where
input and forget gate are coupled, f = 1 - i, and gates are in the order i, o, g::

    c[t]    = c[t-1] + i * (g - c[t-1])                                         (3'')
    dz_i    = dc[t] * (g - c[t-1]) * i * (1 - i)                                (6')
    dc[t-1] = dc[t] * (1 - i) + dz_i * p_i                                      (8'')

Where a clip bounds what goes into the activations of (2), z takes the place of clip(z, -bound, bound) there, p * c
included, and dz is 0 where it was cut off.

With a projection Wp the units make m, and h is the product of that, in the order that `passes` has::

    m[t] = o * tanh(c[t]),   h[t] = m[t] @ Wp                                   (4')

    dm[t] = dh[t] @ Wp.T, in the place of dh[t] in (5) and (7)                  (5'')
    dWp = sum of m[t].T @ dh[t]                                                 (9'')
"""

import math

from rnnkernels.kernels.activations import (
    left_of_sigmoid,
    sigmoid_within,
    slope_of_tanh,
    tanh,
    tanh_within,
)
from rnnkernels.kernels.cell import Cell, register
from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.passes import passes_of
from rnnkernels.kernels.simd import (
    absolute,
    clamp_above,
    clamp_below,
    fma,
    lanes,
    load,
    negative,
    splat,
    store,
    where_negative,
    without_tiny,
)

GATES = 4
COUPLED_GATES = 3


@inlined
def lstm_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own,
                      own0, clip):  # fmt: skip
    """Units `first .. end` of a row: equations (2) to (4).

    In two loops, so that no tanh waits for the sigmoids of its own unit: such chains are longer than what a processor
    looks ahead.
    """
    step = lanes(work)
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        i = sigmoid_within(load(work, z + q), clip)
        f = sigmoid_within(load(work, z + q + step), clip)
        g = tanh_within(load(work, z + q + 3 * step), clip)
        store(tape, tape0 + q, i)
        store(tape, tape0 + q + step, f)
        store(tape, tape0 + q + 3 * step, g)
        store(track, track_next + j, without_tiny(fma(f, load(track, track_prev + j), i * g)))
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        o = sigmoid_within(load(work, z + q + 2 * step), clip)
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
                       h, dz, dm, own, own0, bounds):  # fmt: skip
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
        store(work, dz + q, without_tiny(dc_i * g * left_of_sigmoid(i, bounds)))
        store(work, dz + q + step, without_tiny(dc_f * load(track, track_prev + j) * left_of_sigmoid(f, bounds)))
        store(work, dz + q + 2 * step, without_tiny(dh_o * tanh_c * left_of_sigmoid(o, bounds)))
        store(work, dz + q + 3 * step, without_tiny(dc_i * slope_of_tanh(g, bounds)))
        store(dtrack, dtrack0 + j, dc_f)


@inlined
def peephole_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own,
                          own0, clip):  # fmt: skip
    """Units `first .. end` of a row: equations (2') to (4)."""
    step = lanes(work)
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        c = load(track, track_prev + j)
        i = sigmoid_within(fma(load(own, own0 + q), c, load(work, z + q)), clip)
        f = sigmoid_within(fma(load(own, own0 + q + step), c, load(work, z + q + step)), clip)
        g = tanh_within(load(work, z + q + 3 * step), clip)
        store(tape, tape0 + q, i)
        store(tape, tape0 + q + step, f)
        store(tape, tape0 + q + 3 * step, g)
        store(track, track_next + j, within(without_tiny(fma(f, c, i * g)), load(own, own0 + q + 3 * step)))
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        c = load(track, track_next + j)
        o = sigmoid_within(fma(load(own, own0 + q + 2 * step), c, load(work, z + q + 2 * step)), clip)
        store(tape, tape0 + q + 2 * step, o)
        store(work, h + j, without_tiny(o * tanh(c)))


@inlined
def within(x, bound):
    """`x` within -bound .. bound; NaN where it is NaN."""
    return clamp_above(clamp_below(x, negative(bound)), bound)


@inlined
def where_inside(x, bound, value):
    """`value` in the lanes where |x| < bound, 0 in the others."""
    return where_negative(absolute(x) - bound, value, 0.0)


@inlined
def peephole_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                           h, dz, dm, own, own0, bounds):  # fmt: skip
    """Units `first .. end` of a row: equations (4) to (8'), and the terms of (9')."""
    step = lanes(work)
    for u in range(first, end):
        j, q = u * step, u * step * GATES
        i, f = load(tape, tape0 + q), load(tape, tape0 + q + step)
        o, g = load(tape, tape0 + q + 2 * step), load(tape, tape0 + q + 3 * step)
        c_prev, c = load(track, track_prev + j), load(track, track_next + j)
        tanh_c, dh_t = tanh(c), load(work, dh + j)
        store(work, h + j, without_tiny(o * tanh_c))
        dh_o = dh_t * o
        dz_o = without_tiny(dh_o * tanh_c * left_of_sigmoid(o, bounds))
        dc = fma(dh_o, fma(negative(tanh_c), tanh_c, 1.0), load(dtrack, dtrack0 + j))
        dc = fma(dz_o, load(own, own0 + q + 2 * step), dc)
        dc = where_inside(c, load(own, own0 + q + 3 * step), dc)
        dc_i, dc_f = dc * i, without_tiny(dc * f)
        dz_i = without_tiny(dc_i * g * left_of_sigmoid(i, bounds))
        dz_f = without_tiny(dc_f * c_prev * left_of_sigmoid(f, bounds))
        store(work, dz + q, dz_i)
        store(work, dz + q + step, dz_f)
        store(work, dz + q + 2 * step, dz_o)
        store(work, dz + q + 3 * step, without_tiny(dc_i * slope_of_tanh(g, bounds)))
        store(work, dm + q, dz_i * c_prev)
        store(work, dm + q + step, dz_f * c_prev)
        store(work, dm + q + 2 * step, dz_o * c)
        store(work, dm + q + 3 * step, splat(work, 0.0))
        dc_prev = fma(dz_f, load(own, own0 + q + step), fma(dz_i, load(own, own0 + q), dc_f))
        store(dtrack, dtrack0 + j, without_tiny(dc_prev))


@inlined
def coupled_cell_forward(first, end, work, z, product, h_prev, h, tape, tape0, track, track_prev, track_next, own,
                         own0, clip):  # fmt: skip
    """Units `first .. end` of a row: equations (2') to (4) with (3'')."""
    step = lanes(work)
    for u in range(first, end):
        j, q = u * step, u * step * COUPLED_GATES
        c = load(track, track_prev + j)
        i = sigmoid_within(fma(load(own, own0 + q), c, load(work, z + q)), clip)
        g = tanh_within(load(work, z + q + 2 * step), clip)
        store(tape, tape0 + q, i)
        store(tape, tape0 + q + 2 * step, g)
        store(track, track_next + j, within(without_tiny(fma(i, g - c, c)), load(own, own0 + q + 2 * step)))
    for u in range(first, end):
        j, q = u * step, u * step * COUPLED_GATES
        c = load(track, track_next + j)
        o = sigmoid_within(fma(load(own, own0 + q + step), c, load(work, z + q + step)), clip)
        store(tape, tape0 + q + step, o)
        store(work, h + j, without_tiny(o * tanh(c)))


@inlined
def coupled_cell_output(first, end, tape, tape0, track, track0, work, h):
    """Units `first .. end` of a row: equation (4)."""
    step = lanes(work)
    for u in range(first, end):
        o = load(tape, tape0 + (u * COUPLED_GATES + 1) * step)
        store(work, h + u * step, without_tiny(o * tanh(load(track, track0 + u * step))))


@inlined
def coupled_cell_backward(first, end, tape, tape0, track, track_prev, track_next, work, dh, dh_prev, dtrack, dtrack0,
                          h, dz, dm, own, own0, bounds):  # fmt: skip
    """Units `first .. end` of a row: equations (4) to (8''), and the terms of (9')."""
    step = lanes(work)
    for u in range(first, end):
        j, q = u * step, u * step * COUPLED_GATES
        i, o, g = load(tape, tape0 + q), load(tape, tape0 + q + step), load(tape, tape0 + q + 2 * step)
        c_prev, c = load(track, track_prev + j), load(track, track_next + j)
        tanh_c, dh_t = tanh(c), load(work, dh + j)
        store(work, h + j, without_tiny(o * tanh_c))
        dh_o = dh_t * o
        dz_o = without_tiny(dh_o * tanh_c * left_of_sigmoid(o, bounds))
        dc = fma(dh_o, fma(negative(tanh_c), tanh_c, 1.0), load(dtrack, dtrack0 + j))
        dc = fma(dz_o, load(own, own0 + q + step), dc)
        dc = where_inside(c, load(own, own0 + q + 2 * step), dc)
        dc_i = dc * i
        dz_i = without_tiny(dc_i * (g - c_prev) * left_of_sigmoid(i, bounds))
        store(work, dz + q, dz_i)
        store(work, dz + q + step, dz_o)
        store(work, dz + q + 2 * step, without_tiny(dc_i * slope_of_tanh(g, bounds)))
        store(work, dm + q, dz_i * c_prev)
        store(work, dm + q + step, dz_o * c)
        store(work, dm + q + 2 * step, splat(work, 0.0))
        store(dtrack, dtrack0 + j, without_tiny(fma(dz_i, load(own, own0 + q), dc * (1.0 - i))))


LSTM_PARTS = {
    "GATES": GATES,
    "BIASES": 1,
    "KEPT": GATES,
    "cell_forward": lstm_cell_forward,
    "cell_output": lstm_cell_output,
    "cell_backward": lstm_cell_backward,
}
FORWARD, BACKWARD, STREAM = passes_of("lstm", **LSTM_PARTS)

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

PEEPHOLE_PARTS = {
    "GATES": GATES,
    "BIASES": 2,
    "OWN": 1,
    "KEPT": GATES,
    "cell_forward": peephole_cell_forward,
    "cell_output": lstm_cell_output,
    "cell_backward": peephole_cell_backward,
}
PEEPHOLE_FORWARD, PEEPHOLE_BACKWARD, PEEPHOLE_STREAM = passes_of("lstm_peephole", **PEEPHOLE_PARTS)

PEEPHOLE = register(
    CELL._replace(
        variant="peephole",
        options=(("cell_clip", math.inf),),
        biases=("b", "peepholes"),
        own=1,
        forward=PEEPHOLE_FORWARD,
        backward=PEEPHOLE_BACKWARD,
        stream=PEEPHOLE_STREAM,
    )
)
"""The LSTM with peepholes, a clip of the cell state, or both."""

COUPLED_PARTS = {
    "GATES": COUPLED_GATES,
    "BIASES": 2,
    "OWN": 1,
    "KEPT": COUPLED_GATES,
    "cell_forward": coupled_cell_forward,
    "cell_output": coupled_cell_output,
    "cell_backward": coupled_cell_backward,
}
COUPLED_FORWARD, COUPLED_BACKWARD, COUPLED_STREAM = passes_of("lstm_coupled", **COUPLED_PARTS)

COUPLED = register(
    PEEPHOLE._replace(
        variant="coupled",
        options=(("coupled", True),),
        gates=("i", "o", "g"),
        tape=("i", "o", "g"),
        sigmoids=2,
        forward=COUPLED_FORWARD,
        backward=COUPLED_BACKWARD,
        stream=COUPLED_STREAM,
    )
)
"""The LSTM with coupled input and forget gates, with or without peepholes and a clip."""


def with_projection(cell, parts):
    """Register a cell once more, with a projection of its hidden state; `parts` are those of its passes."""
    variant = f"{cell.variant}_projected" if cell.variant else "projected"
    forward, backward, stream = passes_of(f"{cell.name}_{variant}", PROJECTED=1, **parts)
    biases = *cell.biases, "projection"
    return register(
        cell._replace(variant=variant, biases=biases, projected=1, forward=forward, backward=backward, stream=stream)
    )


PROJECTED = with_projection(CELL, LSTM_PARTS)
PEEPHOLE_PROJECTED = with_projection(PEEPHOLE, PEEPHOLE_PARTS)
COUPLED_PROJECTED = with_projection(COUPLED, COUPLED_PARTS)
"""The LSTM with a projection of its hidden state, and with peepholes or coupled gates, too."""
