"""Loops that do nothing but one thing as fast as the processor can: multiply and add, or read memory."""

from numba import types
from numba.extending import intrinsic

from rnnkernels.kernels.activations import sigmoid_of_array, tanh_of_array
from rnnkernels.kernels.jit import kernel
from rnnkernels.kernels.simd import (
    I64,
    VECTOR_REGISTERS,
    array_data,
    call_llvm,
    emit_loop,
    lanes,
    llvm_vector,
    load,
    load_vector,
    reduce_add,
    splat,
    store_vector,
    vector_of,
)

CHAINS = VECTOR_REGISTERS - 4
"""Sums that grow side by side, 12 or 28. A processor that starts two fused multiply-adds per cycle, each of which takes
four cycles, needs 8; one that starts four needs 16. Two more registers hold the factor and the summand."""

READERS = 8
"""Vectors that `read_again` adds up side by side, so that it waits for memory and not for additions."""


@intrinsic
def multiply_add_chains(typingctx, values, turns):
    """CHAINS times `value = value * factor + summand`, over and over; nothing leaves the registers meanwhile.

    `values` holds the vectors of the chains, then the factor and the summand; the chains are overwritten at the end.
    """

    def codegen(context, builder, sig, args):
        vector = llvm_vector(vector_of(sig.args[0]))
        first = array_data(context, builder, sig.args[0], args[0])
        cells = [builder.gep(first, [I64(i * vector.count)]) for i in range(CHAINS + 2)]
        *starts, factor, summand = (load_vector(builder, cell, vector) for cell in cells)

        def turn(state):
            number, *chains = state
            following = [call_llvm(builder, "fma", vector, chain, factor, summand) for chain in chains]
            return [builder.add(number, I64(1)), *following]

        _, *chains = emit_loop(builder, [I64(0), *starts], lambda n: builder.icmp_signed("<", n, args[1]), turn)
        for cell, chain in zip(cells, chains, strict=False):
            store_vector(builder, chain, cell)
        return context.get_dummy_value()

    return types.void(values, types.intp), codegen


@kernel
def multiply_add(values, turns):
    """`turns` turns of `multiply_add_chains`; returns the floating-point operations."""
    multiply_add_chains(values, turns)
    return 2 * turns * CHAINS * lanes(values)


@kernel
def read_again(buffer, passes):
    """Read a buffer of whole READERS * LANES elements `passes` times; returns the sum of all that was read."""
    step = lanes(buffer)
    a = b = c = d = e = f = g = h = splat(buffer, 0.0)
    for _ in range(passes):
        for i in range(0, buffer.size, READERS * step):
            a = a + load(buffer, i)
            b = b + load(buffer, i + step)
            c = c + load(buffer, i + 2 * step)
            d = d + load(buffer, i + 3 * step)
            e = e + load(buffer, i + 4 * step)
            f = f + load(buffer, i + 5 * step)
            g = g + load(buffer, i + 6 * step)
            h = h + load(buffer, i + 7 * step)
    return reduce_add(((a + b) + (c + d)) + ((e + f) + (g + h)))


@kernel
def sigmoid_again(x, out, passes):
    """`sigmoid_of_array`, `passes` times."""
    for _ in range(passes):
        sigmoid_of_array(x, out)


@kernel
def tanh_again(x, out, passes):
    """`tanh_of_array`, `passes` times."""
    for _ in range(passes):
        tanh_of_array(x, out)
