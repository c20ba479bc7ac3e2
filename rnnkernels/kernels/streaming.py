"""Steps on packed weights: all that a stream owns lies in one array, since each argument of a call costs time.

Equations and columns are those of `rnn` and `lstm`. A chunk of steps is projected at once into z, and each row of z
then takes its step; gates, which nobody asks for, overwrite it.
"""

from collections import namedtuple

from numba import typeof

from rnnkernels.kernels.jit import inlined, kernel
from rnnkernels.kernels.layout import copy_row, unit_count
from rnnkernels.kernels.lstm import GATES as LSTM_GATES
from rnnkernels.kernels.lstm import lstm_cell_forward
from rnnkernels.kernels.micro_kernel import multiply, panel_width
from rnnkernels.kernels.rnn import rnn_cell_forward
from rnnkernels.kernels.simd import lanes

CHUNK_ROWS = 12
"""Rows of z: two full tiles read weights as often as more would, and stay in a near cache until their step comes."""


Regions = namedtuple("Regions", "Wx Wh b z h c end")
Regions.__doc__ = """Where the parts of a stream's memory begin, and where it ends."""


@inlined
def stream_regions(batch, inputs, hidden, z_columns, unit_columns):
    """The panels of Wx and Wh, b, z in at least CHUNK_ROWS rows, h and c; plain arithmetic, which wrappers use too."""
    Wh = inputs * z_columns
    b = Wh + hidden * z_columns
    z = b + z_columns
    h = z + max(CHUNK_ROWS, batch) * z_columns
    c = h + batch * unit_columns
    return Regions(0, Wh, b, z, h, c, c + batch * unit_columns)


@inlined
def z_columns_of(like, hidden, gates):
    """Columns of z, in whole panels."""
    width = panel_width(like)
    return (unit_count(like, hidden) * gates * lanes(like) + width - 1) // width * width


@kernel
def project_stream(x, memory, batch, begin, steps, regions, columns, chunk):
    """Project: z = b + x @ Wx for some steps of `x` (N * T, D); row n * `chunk` + s of z is step s of sequence n."""
    inputs = x.shape[1]
    length = x.shape[0] // batch
    vectors = columns // lanes(x)
    if steps < batch:
        for s in range(steps):
            multiply(x, (begin + s) * inputs, length * inputs, batch, memory, regions.Wx, inputs, vectors,
                     memory, regions.b, 0, memory, regions.z + s * columns, chunk * columns, False)  # fmt: skip
    else:
        for n in range(batch):
            multiply(x, (n * length + begin) * inputs, inputs, steps, memory, regions.Wx, inputs, vectors,
                     memory, regions.b, 0, memory, regions.z + n * chunk * columns, columns, False)  # fmt: skip


@kernel
def stream_forward(x, memory, h, gates, batch, begin, end):
    """Steps `begin .. end` of `x` (N * T, D) by the cell with so many gates; overwrites these of `h` (N * T, H).

    Overwrites z and the states too.
    """
    if batch == 0:
        return
    length, hidden = h.shape[0] // batch, h.shape[1]
    units = unit_count(x, hidden)
    columns, unit_columns = z_columns_of(x, hidden, gates), units * lanes(x)
    regions = stream_regions(batch, x.shape[1], hidden, columns, unit_columns)
    chunk = max(CHUNK_ROWS // batch, 1)
    for start in range(begin, end, chunk):
        steps = min(chunk, end - start)
        project_stream(x, memory, batch, start, steps, regions, columns, chunk)
        for s in range(steps):
            z_step, z_stride = regions.z + s * columns, chunk * columns
            multiply(memory, regions.h, unit_columns, batch, memory, regions.Wh, hidden, units * gates,
                     memory, z_step, z_stride, memory, z_step, z_stride, (start + s) % 2 == 1)  # fmt: skip
            for n in range(batch):
                z_row, h_row = z_step + n * z_stride, regions.h + n * unit_columns
                if gates == LSTM_GATES:
                    c_row = regions.c + n * unit_columns
                    lstm_cell_forward(0, units, memory, z_row, memory, z_row, memory, c_row, c_row, memory, h_row)
                else:
                    rnn_cell_forward(0, units, memory, z_row, memory, h_row, memory, z_row)
                copy_row(memory, h_row, h, (n * length + start + s) * hidden, hidden)


def entry_point(memory):
    """The machine code of `stream_forward` for the dtype of `memory`, ready to be called from Python.

    Arguments must have the types that they have here. Nobody looks at them to find out which code they need: that takes
    0.2 us of a call, where a step can take 2 us.
    """
    arguments = memory, memory, memory, 1, 0, 0, 0
    stream_forward(*arguments)
    return stream_forward.overloads[tuple(typeof(argument) for argument in arguments)].entry_point
