"""Copies between the callers' layouts and the kernels': packing of weights, gathering and scattering of rows.

Three layouts exist inside the package (G gates, L lanes of a vector, U = ceil(H / L) units of L hidden units):

panels
    A weight matrix as `micro_kernel` reads it.
interleaved columns
    Column (u, q, l) of U x G x L holds gate q of hidden unit u * L + l: all gates of a unit lie side by side. Columns
    of padding units are zero, and stay zero through both passes. With G = 1 this is the natural order.
time-major rows
    Row s * N + n of a chunk holds step s of sequence n.

Offsets and strides count elements; arrays are flat or C-contiguous.
"""

from rnnkernels.kernels.jit import inlined, kernel
from rnnkernels.kernels.micro_kernel import panel_width
from rnnkernels.kernels.simd import lanes, load, load_first, splat, store, store_first


@inlined
def unit_count(like, hidden):
    """U, the units of L hidden units that hold `hidden` of them."""
    return (hidden + lanes(like) - 1) // lanes(like)


@inlined
def copy_row(source, source_offset, target, target_offset, count):
    """Copy `count` elements."""
    step = lanes(target)
    whole = count - count % step
    for i in range(0, whole, step):
        store(target, target_offset + i, load(source, source_offset + i))
    if whole < count:
        rest = load_first(source, source_offset + whole, count - whole)
        store_first(target, target_offset + whole, count - whole, rest)


@inlined
def copy_row_padded(source, source_offset, target, target_offset, count):
    """Copy `count` elements and fill the last vector of the target with zeros."""
    step = lanes(target)
    for i in range(0, count, step):
        store(target, target_offset + i, load_first(source, source_offset + i, count - i))


@inlined
def clear_padding(row, offset, hidden, gates):
    """Set the padding of a row of interleaved columns to zero: infinity times a zero weight has left NaN there."""
    step = lanes(row)
    count = hidden % step
    if count > 0:
        last_unit = offset + (hidden - count) * gates
        for i in range(last_unit, last_unit + gates * step, step):
            store(row, i, load_first(row, i, count))


@inlined
def fill_row(target, target_offset, count, number):
    """Set `count` elements to `number`."""
    value, step = splat(target, number), lanes(target)
    whole = count - count % step
    for i in range(0, whole, step):
        store(target, target_offset + i, value)
    if whole < count:
        store_first(target, target_offset + whole, count - whole, value)


@kernel
def gather_rows(source, begin, first, end, target, target_offset, stride, column, columns):
    """Rows `first .. end` of a chunk that starts at step `begin` of `source` (N, T, D), time-major.

    Overwrites `columns` columns from `column` on of these rows of `target`, rounded up to LANES with zeros.
    """
    batch, length, width = source.shape
    for row in range(first, end):
        s, n = row // batch, row % batch
        here = (n * length + begin + s) * width + column
        copy_row_padded(source, here, target, target_offset + row * stride + column, columns)


@kernel
def scatter_rows(source, source_offset, stride, target, begin, first, end, column, columns):
    """The inverse of `gather_rows`: overwrites these rows and columns of `target` (N, T, D)."""
    batch, length, width = target.shape
    for row in range(first, end):
        s, n = row // batch, row % batch
        here = source_offset + row * stride + column
        copy_row(source, here, target, (n * length + begin + s) * width + column, columns)


@kernel
def pack_columns(weights, gates, panels):
    """Pack `weights` (K, G * H) in panels of interleaved columns; overwrites `panels`."""
    depth, hidden = weights.shape[0], weights.shape[1] // gates
    step, width = lanes(weights), panel_width(weights)
    zero = splat(weights, 0.0)
    for v in range(panels.size // (depth * step) if depth > 0 else 0):
        unit, gate = v // gates, v % gates
        target = v * step // width * depth * width + v * step % width
        for k in range(depth):
            if unit * step < hidden:
                source = (k * gates + gate) * hidden + unit * step
                store(panels, target, load_first(weights, source, hidden - unit * step))
            else:
                store(panels, target, zero)
            target += width


@kernel
def pack_transposed(weights, gates, panels):
    """Pack the transpose of `weights` (K, G * H): depth of interleaved columns, K columns; overwrites `panels`.

    The depth is that of `panels`: U * G * L, or H without padding if G = 1.
    """
    columns, hidden = weights.shape[0], weights.shape[1] // gates
    step, width = lanes(weights), panel_width(weights)
    depth = panels.shape[1] // width
    flat, packed = weights.reshape(-1), panels.reshape(-1)
    for p in range((columns + width - 1) // width):
        here = min(width, columns - p * width)
        for unit in range((hidden + step - 1) // step):
            units = min(step, hidden - unit * step)
            for gate in range(gates):
                line = (p * depth + (unit * gates + gate) * step) * width
                for lane in range(min(step, depth - (unit * gates + gate) * step)):
                    if lane >= units:
                        fill_row(panels, line, width, 0.0)
                    else:
                        source = p * width * gates * hidden + gate * hidden + unit * step + lane
                        for column in range(here):
                            packed[line + column] = flat[source + column * gates * hidden]
                        for column in range(here, width):
                            packed[line + column] = 0.0
                    line += width


@kernel
def pack_rows(source, source_offset, stride, depth, columns, panels, first, end):
    """Pack a matrix of `depth` rows at `stride` and `columns` columns; overwrites panels `first .. end` of `panels`."""
    step, width = lanes(source), panel_width(source)
    for v in range(first * width // step, end * width // step):
        target = v * step // width * depth * width + v * step % width
        offset = source_offset + v * step
        for k in range(depth):
            store(panels, target + k * width, load_first(source, offset + k * stride, columns - v * step))


@kernel
def interleave_row(source, gates, target):
    """One natural row (G * H,) in interleaved order, padded with zeros; overwrites `target`."""
    hidden = source.size // gates
    step = lanes(source)
    for v in range(target.size // step):
        unit, gate = v // gates, v % gates
        left = max(hidden - unit * step, 0)
        store(target, v * step, load_first(source, gate * hidden + min(unit * step, hidden), left))


@kernel
def unpack_columns(source, stride, gates, target):
    """Rows of interleaved columns at `stride` as natural rows of `target` (K, G * H), overwritten."""
    hidden = target.shape[1] // gates
    step = lanes(source)
    for k in range(target.shape[0]):
        for unit in range((hidden + step - 1) // step):
            left = hidden - unit * step
            for gate in range(gates):
                value = load(source, k * stride + (unit * gates + gate) * step)
                offset = (k * gates + gate) * hidden + unit * step
                if left >= step:
                    store(target, offset, value)
                else:
                    store_first(target, offset, left, value)
