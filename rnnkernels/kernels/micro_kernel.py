"""The register tile, and the product of packed matrices made of it: the inner loops of every layer.

A packed matrix B of shape (depth, columns) lies in *panels* of VECTORS_PER_PANEL vectors of columns, the last one
padded with zeros; a panel holds its `depth` lines one after the other. The tile reads panels as one linear stream
and keeps its sums in registers.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rnnkernels.kernels.jit import expanded
from rnnkernels.kernels.linking import shared
from rnnkernels.kernels.simd import (
    CACHE_LINE_BYTES,
    I64,
    READ,
    SECOND_LEVEL,
    VECTOR_BYTES,
    VECTOR_REGISTERS,
    WRITE,
    array_data,
    call_llvm,
    element_bytes,
    emit_loop,
    emit_prefetch,
    lanes,
    llvm_vector,
    load_vector,
    splat_scalar,
    store_vector,
    vector_of,
)

VECTORS_PER_PANEL = 2

TILE_ROWS = 6
"""Rows of the full tile: with two vectors of columns, 12 sums + 2 weights + 1 input fill 15 of 16 registers."""

# Panels that a tile of 1, 2, .. TILE_ROWS rows takes at once: few rows take several, since eight sums hide the latency
# of a fused multiply-add; 32 registers hold 6 rows x 4 vectors. What is left is taken panel by panel, and half a panel
# where the other half is padding.
PANEL_GROUPS = (4, 2, 1, 1, 1, 1) if VECTOR_REGISTERS < 32 else (4, 4, 2, 2, 2, 2)

GROUP_SHIFTS = tuple(count.bit_length() - 1 for count in PANEL_GROUPS)
"""Their logarithms: a division would take a fifth of a small product."""

# A row that goes to and fro in a small matrix takes less at once where four sums are enough, since one multiply-add per
# cycle starts: what it read last is then still in the first-level cache. Inference of a vanilla RNN at 1, 1000,
# 64, 64 is 1.10 times as fast on an AMD EPYC (Zen 4).
SMALL_GROUP = 2 if VECTOR_BYTES == 64 else PANEL_GROUPS[0]
SMALL_GROUP_SHIFT = SMALL_GROUP.bit_length() - 1
SMALL_BYTES = 128 * 1024

FAR_BYTES = 256 * 1024
"""Size of the panels of a product from which on they come from a far cache: then, while the first tiles use some
panels, they fetch those that are next into the second-level cache, if they take several panels at once. In a smaller
product they fetch what they have, which takes less time than it takes to compile tiles that do not. On an AMD EPYC
(Zen 4) inference of an LSTM at 20, 35, 650, 650 is 1.17 times as fast with it, at 64, 25, 1024, 1024 1.07 times, or
1.13 on two threads."""

DEPTH_BLOCK = 16 * 1024 // (VECTORS_PER_PANEL * VECTOR_BYTES)
"""Depth of the part of a panel that all rows use in turn: 16 KiB, half of an L1 cache of 32 KiB, or all of it where a
tile takes two panels, which was as fast as less. A multiple of SUM_DEPTH."""

SUM_DEPTH = 64
"""Products that are summed on their own before they are added to the rest: the rounding errors of a sum grow with the
root of its length, and those of two short sums add up to less than those of a long one."""

UNROLLED_DEPTH = 4
"""Lines of a panel for each turn of the loop, where a tile never takes more than a panel: the loop's own instructions
take a share of what the processor can issue. Larger tiles are not worth the time to compile them."""

LINES_AHEAD = 64
"""Lines between what a tile of one panel multiplies and what it fetches into the first-level cache: a far cache answers
after some 100 cycles, and processors do not fetch beyond a page of memory by themselves."""


def panel_columns(dtype):
    """Columns of a packed panel of a NumPy dtype."""
    return VECTORS_PER_PANEL * VECTOR_BYTES // dtype.itemsize


@intrinsic
def multiply_tile(typingctx, rows, vectors, a, a0, a_stride, b, b0, panel_stride, depth, ahead,
                  start, s0, start_stride, c, c0, c_stride):  # fmt: skip
    """C = S + A @ B for 1 .. TILE_ROWS rows and some vectors of columns; the sums stay in registers.

    So many vectors may be asked for: one, those of a panel, of PANEL_GROUPS[rows - 1], and for one row of SMALL_GROUP.

    A[r, k] is a[a0 + r * a_stride + k]. Line k of panel p starts at
    b[b0 + p * panel_stride + k * columns of a panel]. S and C are rows of columns at their strides; they may be the
    same place. The depth is summed in parts of SUM_DEPTH: each part starts from zero and adds A[r, k] * B[k, column] in
    the order of k, by fused multiply-add; and each element of C starts from its element of S and adds the parts in
    order. Whatever the tile, the bits are the same. With each line a tile of several panels fetches a vector of b into
    the second-level cache, one after the other from b[ahead] on.
    """
    n = types.intp

    def codegen(context, builder, sig, args):
        a, b, s, c = (array_data(context, builder, sig.args[i], args[i]) for i in (2, 5, 10, 13))
        rows, vectors, _, a0, a_stride, _, b0, panel_stride, depth, ahead, _, s0, s_stride, _, c0, c_stride = args
        operands = (
            (builder.gep(a, [a0]), a_stride),
            (builder.gep(b, [b0]), panel_stride),
            depth,
            builder.gep(b, [ahead]),
            (builder.gep(s, [s0]), s_stride),
            (builder.gep(c, [c0]), c_stride),
        )
        done = builder.append_basic_block("done")
        impossible = builder.append_basic_block("impossible")
        choice = builder.switch(builder.add(builder.mul(rows, I64(16)), vectors), impossible)
        for row_count, group in enumerate(PANEL_GROUPS, 1):
            panel_counts = {1, group, SMALL_GROUP} if row_count == 1 else {1, group}
            for vector_count in {1, *(VECTORS_PER_PANEL * count for count in panel_counts)}:
                block = builder.append_basic_block(f"tile{row_count}x{vector_count}")
                choice.add_case(I64(16 * row_count + vector_count), block)
                builder.position_at_end(block)
                _emit_tile(builder, llvm_vector(vector_of(sig.args[2])), row_count, vector_count, *operands)
                builder.branch(done)
        builder.position_at_end(impossible)
        builder.unreachable()
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(n, n, a, n, n, b, n, n, n, n, start, n, n, c, n, n), codegen


def _emit_tile(builder, vector, row_count, vector_count, a, b, depth, ahead, s, c):
    """The loops over the depth for one size of tile; a, b, s and c are (pointer, stride)."""
    a_first, a_stride = a
    b_first, panel_stride = b
    panel_count = max(vector_count // VECTORS_PER_PANEL, 1)
    vectors_each = vector_count // panel_count
    is_small = vector_count == VECTORS_PER_PANEL * PANEL_GROUPS[row_count - 1] == VECTORS_PER_PANEL
    width = vector.count
    line = VECTORS_PER_PANEL * width

    def cells(pointer, stride):
        """Pointers to the vectors of the tile, row by row."""
        rows = [builder.gep(pointer, [builder.mul(stride, I64(r))]) for r in range(row_count)]
        return [builder.gep(row, [I64(v * width)]) for row in rows for v in range(vector_count)]

    # LLVM would reach each row from the last in a chain of additions that takes as long as the multiplications. It does
    # not if it cannot see the distances.
    rows = [_opaque(builder, builder.gep(a_first, [builder.mul(a_stride, I64(r))])) for r in range(row_count)]
    panel_offsets = [builder.mul(panel_stride, I64(p)) for p in range(panel_count)]

    # The rows below are next, and their sums may be far away.
    for r in range(row_count, 2 * row_count):
        row = builder.gep(s[0], [builder.mul(s[1], I64(r))])
        for v in range(0, vector_count, max(CACHE_LINE_BYTES // VECTOR_BYTES, 1)):
            emit_prefetch(builder, builder.gep(row, [I64(v * width)]), WRITE)

    def add_products(state, depth_here):
        """Sums and positions `depth_here` lines further on."""
        k, b_k, *sums = state
        for d in range(depth_here):
            if panel_count == 1:
                emit_prefetch(builder, builder.gep(b_k, [I64((d + LINES_AHEAD) * line)]), READ)
            else:
                emit_prefetch(builder, builder.gep(ahead, [builder.mul(k, I64(width))]), READ, SECOND_LEVEL)
            lines = [builder.gep(b_k, [builder.add(offset, I64(d * line))]) for offset in panel_offsets]
            weights = [
                load_vector(builder, builder.gep(line, [I64(v * width)]), vector)
                for line in lines
                for v in range(vectors_each)
            ]
            heads = [builder.load(builder.gep(builder.gep(row, [k]), [I64(d)])) for row in rows]
            inputs = [splat_scalar(builder, head, vector) for head in heads]
            products = ((scalar, weight) for scalar in inputs for weight in weights)
            sums = [call_llvm(builder, "fma", vector, *pair, total) for pair, total in zip(products, sums, strict=True)]
        return [_opaque(builder, builder.add(k, I64(depth_here))), builder.gep(b_k, [I64(depth_here * line)]), *sums]

    def add_part(state):
        """Add the sums of one part of the depth."""
        k, b_k, *start = state
        end = builder.add(k, I64(SUM_DEPTH))
        end = builder.select(builder.icmp_signed("<", end, depth), end, depth)
        zero = ir.Constant(vector, [0.0] * width)
        inner = [k, b_k, *[zero] * (row_count * vector_count)]
        for depth_here in (UNROLLED_DEPTH, 1) if is_small else (1,):
            last = builder.sub(end, I64(depth_here))
            inner = emit_loop(builder, inner, lambda k, last=last: builder.icmp_signed("<=", k, last),
                               lambda state, depth_here=depth_here: add_products(state, depth_here))  # fmt: skip
        _, b_k, *sums = inner
        for value, source, target in zip(sums, cells(*start), cells(*c), strict=True):
            store_vector(builder, builder.fadd(load_vector(builder, source, vector), value), target)
        return [builder.add(k, I64(SUM_DEPTH)), b_k, *c]

    # Once at least: without depth, C is S.
    limit = builder.select(builder.icmp_signed("<", depth, I64(1)), I64(1), depth)
    emit_loop(builder, [I64(0), b_first, *s], lambda k: builder.icmp_signed("<", k, limit), add_part)


def _opaque(builder, value):
    """The same pointer or integer, of which the optimiser knows nothing: the result of an empty instruction."""
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=r,0", [value], side_effect=False)


@expanded
def panel_width(array):
    """Columns of a packed panel of the dtype of `array`."""
    return VECTORS_PER_PANEL * lanes(array)


@expanded
def _tile_height(rows_left):
    """Rows of the next tile; the last two are of like size, as 4 + 3 rows keep the units busier than 6 + 1."""
    if TILE_ROWS < rows_left < 2 * TILE_ROWS:
        return (rows_left + 1) // 2
    return min(rows_left, TILE_ROWS)


@shared("a b start c")
def multiply(a, a0, a_stride, rows, b, b0, depth, vectors, start, s0, start_stride, c, c0, c_stride, descending):
    """C = S + A @ B for `rows` rows and `vectors` vectors of columns; overwrites C. The rest is as in `multiply_tile`.

    The panels are taken from the last to the first if `descending`: a caller who multiplies by one matrix again and
    again goes to and fro in it, and finds in a near cache what it read last.
    """
    if rows == 0:
        return
    width = panel_width(b)
    panel_stride = depth * width
    panels = vectors // VECTORS_PER_PANEL
    shift = GROUP_SHIFTS[min(rows, TILE_ROWS) - 1]
    if rows == 1 and panels * panel_stride * element_bytes(b) <= SMALL_BYTES:
        shift = SMALL_GROUP_SHIFT
    groups, most_panels = panels >> shift, 1 << shift
    # What is left over is taken panel by panel, and half a panel where the other half is padding.
    pieces = groups + (panels & (most_panels - 1)) + vectors % VECTORS_PER_PANEL
    # A panel that serves one tile is read once and needs no blocks of depth.
    depth_block = DEPTH_BLOCK if rows > TILE_ROWS else depth
    is_far = panels * panel_stride * element_bytes(b) > FAR_BYTES
    k = 0
    while True:
        block = min(depth_block, depth - k)
        for turn in range(pieces):
            piece = pieces - 1 - turn if descending else turn
            p, count = piece * most_panels, most_panels * VECTORS_PER_PANEL
            if piece >= groups:
                p = groups * most_panels + piece - groups
                count = VECTORS_PER_PANEL if p < panels else 1
            here = b0 + p * panel_stride + k * width
            following = here + (-most_panels if descending else most_panels) * panel_stride
            r, tile = 0, 0
            while r < rows:
                height = _tile_height(rows - r)
                ahead = here
                if is_far and tile < VECTORS_PER_PANEL * most_panels:
                    part = block * width // VECTORS_PER_PANEL
                    ahead = following + tile // VECTORS_PER_PANEL * panel_stride + tile % VECTORS_PER_PANEL * part
                tile += 1
                multiply_tile(height, count, a, a0 + r * a_stride + k, a_stride,
                              b, here, panel_stride, block, ahead,
                              start, s0 + r * start_stride + p * width, start_stride,
                              c, c0 + r * c_stride + p * width, c_stride)  # fmt: skip
                r += height
        k += block
        if k >= depth:
            return
        start, s0, start_stride = c, c0, c_stride
