"""Products with a matrix where it lies, for what is too small to be worth packing.

The sums have the order of those of `micro_kernel`, and so the same bits: a part of the depth at a time, see there.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rnnkernels.kernels.jit import inlined
from rnnkernels.kernels.simd import (
    I64,
    VECTOR_REGISTERS,
    array_data,
    call_llvm,
    emit_loop,
    lanes,
    llvm_vector,
    load_masked,
    load_vector,
    mask_of_first,
    splat_scalar,
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
