"""Products with a matrix where it lies, for what is too small to be worth packing.

The sums have the order of those of `micro_kernel`, and so the same bits: a part of the depth at a time, see there.
Recurrent layers multiply by gates of interleaved columns, in `multiply_in_place` and its transpose, affine layers by
natural ones, in `multiply_part`.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.layout import pack_transposed_lines
from rnnkernels.kernels.linking import shared
from rnnkernels.kernels.micro_kernel import (
    PANEL_GROUPS,
    SMALL_GROUP,
    SUM_DEPTH,
    VECTORS_PER_PANEL,
    multiply,
    panel_width,
)
from rnnkernels.kernels.simd import (
    I64,
    VECTOR_REGISTERS,
    array_data,
    call_llvm,
    emit_loop,
    lanes,
    llvm_vector,
    load,
    load_first,
    load_masked,
    load_vector,
    mask_of_first,
    prefetch,
    splat,
    splat_scalar,
    store,
    store_masked,
    store_vector,
    vector_of,
)

TILE_ROWS = 4
TILE_VECTORS = 4 if VECTOR_REGISTERS >= 32 else 2
"""The sums of a tile leave registers for a line of vectors and some inputs."""

NARROW_ROWS = 8
"""Rows of a tile of one vector, for what has no more columns."""

ROW_VECTORS = 8
"""Vectors that a single row takes at once: eight sums hide the latency of a fused multiply-add."""

FEW_ROWS, LINES_AT_ONCE = 12, 4
"""Rows up to which weights in place are read row by row, and how many of these rows are read at a time."""

ROWS_TOGETHER = 4 if VECTOR_REGISTERS >= 32 else 2
"""Rows that use a vector of such weights while it is in a register, beside their factors."""

PANELS_IN_PLACE, PANELS_TRANSPOSED = 8, PANEL_GROUPS[-1]
"""Panels of a part of the depth that are packed in the buffer at a time. As they lie, gates far apart, so many that
what is read of a row is several cache lines long: with 8 rather than 2 a step of an LSTM of 512 units took 0.8 times as
long at 16 to 50 rows in float32, 0.9 times in float64 (Xeon, Sapphire Rapids). Transposed, 8 took 1.1 times as long."""

BUFFER_VECTORS = VECTORS_PER_PANEL * PANELS_IN_PLACE * SUM_DEPTH
"""Vectors of the buffer of a product in place."""


def _emit(builder, vector, row_count, vector_count, a, b, depth, s, c, rows, columns):
    """C = S + A @ B for one size of tile; rows beyond the last one repeat it, and columns may be masked."""
    (a, a_stride, a_step), (b, b_stride), (s, s_stride), (c, c_stride) = a, b, s, c
    last = builder.sub(rows, I64(1))
    row_numbers = [I64(0)]
    for r in range(1, row_count):
        row_numbers.append(builder.select(builder.icmp_signed("<", I64(r), last), I64(r), last))
    heads = [builder.gep(a, [builder.mul(a_stride, number)]) for number in row_numbers]
    offsets = [I64(v * vector.count) for v in range(vector_count)]

    def emit_tile(masks):
        def load(pointer, v):
            return load_masked(builder, pointer, vector, masks[v]) if masks else load_vector(builder, pointer, vector)

        def add_products(state):
            k, a_k, b_k, *sums = state
            lines = [load(builder.gep(b_k, [offset]), v) for v, offset in enumerate(offsets)]
            inputs = [splat_scalar(builder, builder.load(builder.gep(head, [a_k])), vector) for head in heads]
            products = ((scalar, line) for scalar in inputs for line in lines)
            sums = [call_llvm(builder, "fma", vector, *pair, total) for pair, total in zip(products, sums, strict=True)]
            return [builder.add(k, I64(1)), builder.add(a_k, a_step), builder.gep(b_k, [b_stride]), *sums]

        zero = ir.Constant(vector, [0.0] * vector.count)
        first = [I64(0), I64(0), b, *[zero] * (row_count * vector_count)]
        _, _, _, *sums = emit_loop(builder, first, lambda k: builder.icmp_signed("<", k, depth), add_products)

        def places(pointer, stride):
            rows = [builder.gep(pointer, [builder.mul(stride, number)]) for number in row_numbers]
            return [builder.gep(row, [offset]) for row in rows for offset in offsets]

        starts = [load(place, i % vector_count) for i, place in enumerate(places(s, s_stride))]
        for i, (place, start, total) in enumerate(zip(places(c, c_stride), starts, sums, strict=True)):
            if masks:
                store_masked(builder, builder.fadd(start, total), place, masks[i % vector_count])
            else:
                store_vector(builder, builder.fadd(start, total), place)

    whole = builder.icmp_signed(">=", columns, I64(vector_count * vector.count))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            emit_tile(None)
        with otherwise:
            emit_tile([mask_of_first(builder, vector, builder.sub(columns, offset)) for offset in offsets])


@intrinsic
def multiply_tile(typingctx, a, a0, a_stride, a_step, rows, b, b0, b_stride, depth,
                  s, s0, s_stride, c, c0, c_stride, columns):  # fmt: skip
    """C = S + A @ B for a tile: TILE_ROWS x TILE_VECTORS, NARROW_ROWS x 1 or 1 x ROW_VECTORS rows and vectors at most.

    A[r, k] is a[a0 + r * a_stride + k * a_step], line k of B starts at b[b0 + k * b_stride]; the rows of S and C lie at
    their strides, and may be the same. Columns beyond `columns` are neither read nor written.
    """
    n = types.intp

    def codegen(context, builder, sig, args):
        a, b, s, c = (array_data(context, builder, sig.args[i], args[i]) for i in (0, 5, 9, 12))
        _, a0, a_stride, a_step, rows, _, b0, b_stride, depth, _, s0, s_stride, _, c0, c_stride, columns = args
        operands = (
            (builder.gep(a, [a0]), a_stride, a_step),
            (builder.gep(b, [b0]), b_stride),
            depth,
            (builder.gep(s, [s0]), s_stride),
            (builder.gep(c, [c0]), c_stride),
            rows,
            columns,
        )
        vector = llvm_vector(vector_of(sig.args[0]))
        with builder.if_else(builder.icmp_signed("==", rows, I64(1))) as (then, otherwise):
            with then:
                _emit(builder, vector, 1, ROW_VECTORS, *operands)
            with otherwise:
                narrow = builder.icmp_signed("<=", columns, I64(vector.count))
                with builder.if_else(narrow) as (then_narrow, otherwise_wide):
                    with then_narrow:
                        _emit(builder, vector, NARROW_ROWS, 1, *operands)
                    with otherwise_wide:
                        _emit(builder, vector, TILE_ROWS, TILE_VECTORS, *operands)
        return context.get_dummy_value()

    return types.void(a, n, n, n, n, b, n, n, n, s, n, n, c, n, n, n), codegen


@inlined
def columns_at_once(like, rows):
    """Columns that tiles of so many rows take at once."""
    return (ROW_VECTORS if rows == 1 else TILE_VECTORS) * lanes(like)


@inlined
def multiply_part(a, a0, a_stride, a_step, rows, b, b0, b_stride, depth, s, s0, s_stride, c, c0, c_stride, columns):
    """C = S + A @ B for all rows, a part of the depth of at most SUM_DEPTH, and at most `columns_at_once` columns."""
    tile = NARROW_ROWS if columns <= lanes(a) else TILE_ROWS
    for r in range(0, rows, tile):
        multiply_tile(a, a0 + r * a_stride, a_stride, a_step, min(rows - r, tile), b, b0, b_stride, depth,
                      s, s0 + r * s_stride, s_stride,
                      c, c0 + r * c_stride, c_stride, columns)  # fmt: skip


@shared("a weights start c buffer")
def multiply_in_place(a, a0, a_stride, rows, weights, w0, stride, hidden, gates, depth, first_unit, end_unit,
                      start, s0, start_stride, c, c0, c_stride, buffer, buffer0):  # fmt: skip
    """As `multiply` with weights (depth, G * H) that nobody has packed, for the columns of some units.

    The sums and their bits are the same. Where weights serve few rows a matrix of panels is not worth the memory: parts
    of a few panels are packed in `buffer`, which stays in the nearest cache, multiplied, and forgotten; or, for very
    few rows, the weights are read once, from one end of their rows to the other, and sums of parts wait in `buffer`.
    """
    step, width = lanes(weights), panel_width(weights)
    if rows <= FEW_ROWS and rows > 0:
        multiply_few_rows(a, a0, a_stride, rows, weights, w0, stride, hidden, gates, depth, first_unit, end_unit,
                          start, s0, start_stride, c, c0, c_stride, buffer, buffer0)  # fmt: skip
        return
    group, first, end = VECTORS_PER_PANEL * PANELS_IN_PLACE, first_unit * gates, end_unit * gates
    for v in range(first, end, group):
        count = min(group, end - v)
        column = (v - first) * step
        k = 0
        while True:
            lines = min(SUM_DEPTH, depth - k)
            for i in range(count):
                unit, gate = (v + i) // gates, (v + i) % gates
                left = hidden - unit * step
                here = w0 + k * stride + gate * hidden + unit * step
                there = buffer0 + i // VECTORS_PER_PANEL * lines * width + i % VECTORS_PER_PANEL * step
                if left >= step:
                    for line in range(lines):
                        prefetch(weights, here + line * stride + 2 * step)
                        store(buffer, there + line * width, load(weights, here + line * stride))
                else:
                    for line in range(lines):
                        store(buffer, there + line * width, load_first(weights, here + line * stride, left))
            if k == 0:
                multiply(a, a0, a_stride, rows, buffer, buffer0, lines, count,
                         start, s0 + column, start_stride, c, c0 + column, c_stride, False)  # fmt: skip
            else:
                multiply(a, a0 + k, a_stride, rows, buffer, buffer0, lines, count,
                         c, c0 + column, c_stride, c, c0 + column, c_stride, False)  # fmt: skip
            k += lines
            if k >= depth:
                break


@inlined
def multiply_few_rows(a, a0, a_stride, rows, weights, w0, stride, hidden, gates, depth, first_unit, end_unit,
                      start, s0, start_stride, c, c0, c_stride, buffer, buffer0):  # fmt: skip
    """As `multiply_in_place`: four lines of the weights at a time, which serve some rows at a time."""
    step = lanes(weights)
    most_units = max(end_unit - first_unit, 1)
    if most_units * rows * gates > BUFFER_VECTORS:
        most_units = max(BUFFER_VECTORS // (rows * gates), 1)
    for unit0 in range(first_unit, end_unit, most_units):
        units = min(most_units, end_unit - unit0)
        whole = min(units, max(hidden // step - unit0, 0))
        rest = hidden - (unit0 + whole) * step
        row_length = units * gates * step
        k = 0
        while True:
            part_end = min(k + SUM_DEPTH, depth)
            for i in range(buffer0, buffer0 + rows * row_length, step):
                store(buffer, i, splat(weights, 0.0))
            for line in range(k, part_end, LINES_AT_ONCE):
                lines = min(LINES_AT_ONCE, part_end - line)
                for r in range(0, rows, ROWS_TOGETHER):
                    for gate in range(gates):
                        add_products(a, a0 + r * a_stride + line, a_stride, min(ROWS_TOGETHER, rows - r), lines,
                                     weights, w0 + line * stride + gate * hidden + unit0 * step, stride,
                                     whole, units, rest,
                                     buffer, buffer0 + r * row_length + gate * step, row_length,
                                     gates * step)  # fmt: skip
            column = (unit0 - first_unit) * gates * step
            for r in range(rows):
                there = c0 + r * c_stride + column
                for i in range(0, row_length, step):
                    part = load(buffer, buffer0 + r * row_length + i)
                    if k == 0:
                        store(c, there + i, load(start, s0 + r * start_stride + column + i) + part)
                    else:
                        store(c, there + i, load(c, there + i) + part)
            k = part_end
            if k >= depth:
                break


@shared("a weights start c buffer")
def multiply_transposed_in_place(a, a0, a_stride, rows, weights, w0, stride, columns, hidden, gates, first, end,
                                 start, s0, start_stride, c, c0, c_stride, buffer, buffer0):  # fmt: skip
    """As `multiply_in_place` with the transpose of weights (columns, G * H), for vectors `first .. end` of columns."""
    step = lanes(weights)
    group = VECTORS_PER_PANEL * (SMALL_GROUP if rows == 1 else PANELS_TRANSPOSED)
    lines = (hidden + step - 1) // step * gates
    part = SUM_DEPTH // step
    for v in range(first, end, group):
        count = min(group, end - v)
        column = (v - first) * step
        line = 0
        while True:
            stop = min(line + part, lines)
            depth = (stop - line) * step
            pack_transposed_lines(weights, w0, stride, columns, hidden, gates, v, v + count, line, stop,
                                  buffer, buffer0, depth)  # fmt: skip
            if line == 0:
                multiply(a, a0, a_stride, rows, buffer, buffer0, depth, count,
                         start, s0 + column, start_stride, c, c0 + column, c_stride, False)  # fmt: skip
            else:
                multiply(a, a0 + line * step, a_stride, rows, buffer, buffer0, depth, count,
                         c, c0 + column, c_stride, c, c0 + column, c_stride, False)  # fmt: skip
            line = stop
            if line >= lines:
                break


def _emit_products(builder, vector, row_count, line_count, a, weights, buffer, whole, units, rest):
    """Add the products of some rows and lines to `buffer`, unit by unit; the last one may have but some columns."""
    (a, a_stride), (weights, stride), (buffer, row_length, unit_stride) = a, weights, buffer
    heads = [builder.gep(a, [builder.mul(a_stride, I64(r))]) for r in range(row_count)]
    factors = [
        [splat_scalar(builder, builder.load(builder.gep(head, [I64(line)])), vector) for line in range(line_count)]
        for head in heads
    ]

    def add_unit(source, target, mask):
        places = [builder.gep(source, [builder.mul(stride, I64(line))]) for line in range(line_count)]
        lines = [
            load_masked(builder, place, vector, mask) if mask else load_vector(builder, place, vector)
            for place in places
        ]
        for r, of_row in enumerate(factors):
            place = builder.gep(target, [builder.mul(row_length, I64(r))])
            total = load_vector(builder, place, vector)
            for factor, line in zip(of_row, lines, strict=True):
                total = call_llvm(builder, "fma", vector, factor, line, total)
            store_vector(builder, total, place)

    def add_whole_unit(state):
        unit, source, target = state
        add_unit(source, target, None)
        following = builder.gep(source, [I64(vector.count)]), builder.gep(target, [unit_stride])
        return [builder.add(unit, I64(1)), *following]

    first = [I64(0), weights, buffer]
    _, source, target = emit_loop(builder, first, lambda unit: builder.icmp_signed("<", unit, whole), add_whole_unit)
    with builder.if_then(builder.icmp_signed("<", whole, units)):
        add_unit(source, target, mask_of_first(builder, vector, rest))


@intrinsic
def add_products(typingctx, a, a0, a_stride, rows, lines, weights, w0, stride, whole, units, rest,
                 buffer, buffer0, row_length, unit_stride):  # fmt: skip
    """Add to rows of `buffer` the products of ROWS_TOGETHER rows at most with LINES_AT_ONCE lines of weights at most.

    For so many `units` of a gate, of which the last one has only `rest` columns if they are not `whole`. Each product
    is added to the sum of those before it.
    """
    n = types.intp

    def codegen(context, builder, sig, args):
        a, weights, buffer = (array_data(context, builder, sig.args[i], args[i]) for i in (0, 5, 11))
        _, a0, a_stride, rows, lines, _, w0, stride, whole, units, rest, _, buffer0, row_length, unit_stride = args
        vector = llvm_vector(vector_of(sig.args[0]))
        inputs, weights = builder.gep(a, [a0]), builder.gep(weights, [w0])
        sums = builder.gep(buffer, [buffer0])

        def emit(line_count, line):
            here = builder.gep(inputs, [line]), builder.gep(weights, [builder.mul(stride, line)])
            for row_count in range(1, ROWS_TOGETHER + 1):
                with builder.if_then(builder.icmp_signed("==", rows, I64(row_count))):
                    operands = (here[0], a_stride), (here[1], stride), (sums, row_length, unit_stride)
                    _emit_products(builder, vector, row_count, line_count, *operands, whole, units, rest)

        def emit_line(state):
            emit(1, state[0])
            return [builder.add(state[0], I64(1))]

        with builder.if_else(builder.icmp_signed("==", lines, I64(LINES_AT_ONCE))) as (then, otherwise):
            with then:
                emit(LINES_AT_ONCE, I64(0))
            with otherwise:
                emit_loop(builder, [I64(0)], lambda line: builder.icmp_signed("<", line, lines), emit_line)
        return context.get_dummy_value()

    return types.void(a, n, n, n, n, weights, n, n, n, n, n, buffer, n, n, n), codegen
