"""Vectors of the host's width as Numba values.

`load(a, i)` gives a `Vector` of LANES elements of the flat array `a`; `+ - * /`, `fma` and the functions below work on
vectors, and `store(a, i, v)` writes one. So a kernel states its vector code instead of hoping that the compiler finds
it, each lane rounds as the same scalar expression would, and neither aliasing nor a tail changes the result.

Offsets count elements. Nothing is checked: an address outside its array is the caller's fault.
"""

import operator

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable
from numba.np import arrayobj

from rnnkernels.kernels.jit import VECTOR_BYTES_FORCED

CACHE_LINE_BYTES = 64

READ, WRITE = 0, 1
FIRST_LEVEL, SECOND_LEVEL = 3, 2  # caches, as the instruction has them

I32 = ir.IntType(32)
I64 = ir.IntType(64)


def _host_vectors():
    """Of the features that Numba compiles for: bytes of a vector register, number of them, and AVX-512 or not."""
    features = get_host_cpu_features().split(",")
    if "+avx512f" in features:
        return 64, 32, True
    if "+avx" in features:
        return 32, 16, False
    return 16, 16 if llvm.get_process_triple().startswith(("x86_64", "i686")) else 32, False


VECTOR_BYTES, VECTOR_REGISTERS, HAS_AVX512 = _host_vectors()
if VECTOR_BYTES_FORCED:  # tests of the code generated for other hosts; LLVM splits what the host does not have
    VECTOR_BYTES = int(VECTOR_BYTES_FORCED)


def lanes_of(dtype):
    """Elements of a vector of a NumPy dtype."""
    return VECTOR_BYTES // dtype.itemsize


LANES = {np.dtype(np.float32): VECTOR_BYTES // 4, np.dtype(np.float64): VECTOR_BYTES // 8}
"""Elements of a vector."""


class Vector(types.Type):
    """Numba type of a vector register of float32 or float64."""

    def __init__(self, element):
        self.element = element
        self.lanes = VECTOR_BYTES * 8 // element.bitwidth
        super().__init__(name=f"Vector({element}, {self.lanes})")

    @property
    def key(self):
        """What makes two of these types equal."""
        return self.element, self.lanes


def _llvm_element(element):
    return ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()


def llvm_vector(vector):
    """The LLVM type of a `Vector`."""
    return ir.VectorType(_llvm_element(vector.element), vector.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, llvm_vector(vector))


def array_data(context, builder, array_type, array):
    """Pointer to the first element of an array argument, which may be given as such a pointer."""
    if isinstance(array_type, types.CPointer):
        return array
    return arrayobj.make_array(array_type)(context, builder, array).data


def _element_bytes(vector_type):
    return 4 if isinstance(vector_type.element, ir.FloatType) else 8


def load_vector(builder, pointer, vector_type):
    """Emit a vector load."""
    value = builder.load(builder.bitcast(pointer, vector_type.as_pointer()))
    value.align = _element_bytes(vector_type)  # arrays of NumPy are aligned to elements, not to vectors
    return value


def store_vector(builder, value, pointer):
    """Emit a vector store."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = _element_bytes(value.type)


def emit_prefetch(builder, pointer, purpose, nearness=FIRST_LEVEL):
    """Ask for a cache line that will be read or written; it need not exist."""
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(function, [pointer, I32(purpose), I32(nearness), I32(1)])


def splat_scalar(builder, scalar, vector_type):
    """Emit a vector with `scalar` in every lane."""
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = ir.Constant(ir.VectorType(I32, vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, ir.Constant(I32, 0)), undefined, first)


def _operand(context, builder, value, source, vector):
    """`value` as a vector: itself, or a number rounded to the element type and repeated in every lane."""
    if isinstance(source, Vector):
        return value
    scalar = context.cast(builder, value, source, vector.element)
    return splat_scalar(builder, scalar, llvm_vector(vector))


def _common_vector(*operands):
    """The vector type of an expression of vectors and numbers; None if it is not one."""
    vectors = {t for t in operands if isinstance(t, Vector)}
    numbers = all(isinstance(t, (Vector, types.Number)) for t in operands)
    return vectors.pop() if len(vectors) == 1 and numbers else None


def _define_operator(function, instruction):
    @type_callable(function)
    def type_operator(context):
        return lambda left, right: _common_vector(left, right)

    def lower_operator(context, builder, sig, args):
        left, right = (_operand(context, builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
        return getattr(builder, instruction)(left, right)

    for left, right in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(function, left, right)(lower_operator)


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")


def _vector_function(generate):
    """Make an intrinsic of vectors and numbers that returns a vector; `generate(builder, vector_type, *operands)`."""

    def typing(*operands):
        vector = _common_vector(*operands)
        if vector is None:
            return None

        def codegen(context, builder, sig, args):
            values = [_operand(context, builder, v, t, vector) for v, t in zip(args, sig.args, strict=True)]
            return generate(builder, llvm_vector(vector), *values)

        return vector(*operands), codegen

    return typing


def call_llvm(builder, name, result, *operands):
    """Emit a call of the vector intrinsic `llvm.<name>`."""
    suffix = f"v{result.count}f{8 * _element_bytes(result)}"
    signature = ir.FunctionType(result, [o.type for o in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), operands)


def emit_loop(builder, first, goes_on, step):
    """A loop over values: `step` makes the next ones from the last while `goes_on` of the first value; returns them."""
    entry = builder.block
    head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    carried = [builder.phi(value.type) for value in first]
    builder.cbranch(goes_on(carried[0]), body, done)
    builder.position_at_end(body)
    for phi, start, following in zip(carried, first, step(carried), strict=True):
        phi.add_incoming(start, entry)
        phi.add_incoming(following, builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return carried


def _int_vector(vector_type):
    return ir.VectorType(ir.IntType(8 * _element_bytes(vector_type)), vector_type.count)


def _scales_by_powers(vector_type):
    """Whether one instruction makes `a * 2**n` of vectors."""
    return HAS_AVX512 and vector_type.count * _element_bytes(vector_type) == 64


def _scale(builder, vector_type, a, n):
    """That instruction; n is a vector of whole numbers."""
    mask, rounding = ir.IntType(vector_type.count), 4  # of all lanes, to nearest
    signature = ir.FunctionType(vector_type, [vector_type] * 3 + [mask, I32])
    name = f"llvm.x86.avx512.mask.scalef.p{'s' if _element_bytes(vector_type) == 4 else 'd'}.512"
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, [a, n, ir.Constant(vector_type, ir.Undefined), mask(-1), I32(rounding)])


def _power_of_two(builder, vector_type, exponent):
    mantissa_bits, bias = (23, 127) if _element_bytes(vector_type) == 4 else (52, 1023)
    every_bias, every_shift = (ir.Constant(exponent.type, [n] * vector_type.count) for n in (bias, mantissa_bits))
    return builder.bitcast(builder.shl(builder.add(exponent, every_bias), every_shift), vector_type)


@intrinsic
def fma(typingctx, a, b, c):
    """`a * b + c`, rounded once."""
    return _vector_function(lambda builder, v, *abc: call_llvm(builder, "fma", v, *abc))(a, b, c)


@intrinsic
def negative(typingctx, a):
    """`-a`."""
    return _vector_function(lambda builder, v, x: builder.fneg(x))(a)


@intrinsic
def absolute(typingctx, a):
    """`|a|`."""
    return _vector_function(lambda builder, v, x: call_llvm(builder, "fabs", v, x))(a)


@intrinsic
def copysign(typingctx, magnitude, sign):
    """`magnitude` with the sign of `sign`."""
    return _vector_function(lambda builder, v, m, s: call_llvm(builder, "copysign", v, m, s))(magnitude, sign)


@intrinsic
def clamp_below(typingctx, a, low):
    """The larger of `a` and `low`; NaN where `a` is NaN."""

    def generate(builder, v, x, bound):
        return builder.select(builder.fcmp_ordered("<", x, bound), bound, x)

    return _vector_function(generate)(a, low)


@intrinsic
def clamp_above(typingctx, a, high):
    """The smaller of `a` and `high`; NaN where `a` is NaN."""

    def generate(builder, v, x, bound):
        return builder.select(builder.fcmp_ordered(">", x, bound), bound, x)

    return _vector_function(generate)(a, high)


@intrinsic
def maximum(typingctx, a, b):
    """The larger of `a` and `b`; `b` where either is NaN."""

    def generate(builder, v, x, y):
        return builder.select(builder.fcmp_ordered(">", x, y), x, y)

    return _vector_function(generate)(a, b)


def _reduction(vector, name, *start):
    """An intrinsic's result for a sum or maximum over the lanes of `vector`, in a fixed order."""

    def codegen(context, builder, sig, args):
        v = args[0].type
        operands = [*(ir.Constant(v.element, s) for s in start), args[0]]
        signature = ir.FunctionType(v.element, [o.type for o in operands])
        name_of_type = f"llvm.vector.reduce.{name}.v{v.count}f{8 * _element_bytes(v)}"
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name_of_type), operands)

    return vector.element(vector), codegen


@intrinsic
def reduce_add(typingctx, a):
    """Sum of the lanes, from the first to the last."""
    return _reduction(a, "fadd", 0.0)


@intrinsic
def reduce_max(typingctx, a):
    """Largest of the lanes that are no NaN."""
    return _reduction(a, "fmax")


@intrinsic
def where_negative(typingctx, test, a, b):
    """`a` in the lanes where `test < 0`, `b` in the others."""

    def generate(builder, v, t, x, y):
        return builder.select(builder.fcmp_ordered("<", t, ir.Constant(v, [0.0] * v.count)), x, y)

    return _vector_function(generate)(test, a, b)


TINY = {"float": 2.0**-100, "double": 2.0**-960}
"""Magnitudes below which `without_tiny` gives zero: products with the weights of a model stay normal numbers."""


@intrinsic
def without_tiny(typingctx, a):
    """`a`, or zero in the lanes where it is so small that processors would take many times as long for its products.

    States and gradients that decay from step to step would all come to that. NaN stays NaN.
    """

    def generate(builder, v, x):
        magnitude = call_llvm(builder, "fabs", v, x)
        is_tiny = builder.fcmp_ordered("<", magnitude, ir.Constant(v, [TINY[str(v.element)]] * v.count))
        return builder.select(is_tiny, ir.Constant(v, [0.0] * v.count), x)

    return _vector_function(generate)(a)


@intrinsic
def half_power_of_two(typingctx, n, shifter):
    """`2**n / 2`, where `n` is a whole number that was added to `shifter` = 1.5 * 2**(mantissa bits).

    The sum `n + shifter` is passed as `n`: its low bits are the integer. The result must be a normal number.
    """

    def generate(builder, v, shifted, origin):
        if _scales_by_powers(v):
            return _scale(builder, v, ir.Constant(v, [0.5] * v.count), builder.fsub(shifted, origin))
        exponent = builder.sub(*(builder.bitcast(x, _int_vector(v)) for x in (shifted, origin)))
        return _power_of_two(builder, v, builder.sub(exponent, ir.Constant(exponent.type, [1] * v.count)))

    return _vector_function(generate)(n, shifter)


@intrinsic
def scale_by_power_of_two(typingctx, a, n, shifter):
    """`a * 2**n` with `n` and `shifter` as in `half_power_of_two`; NaN in `a` stays NaN.

    A subnormal result is rounded once: by an instruction, or in two steps of half the exponent, which cannot overflow.
    """

    def generate(builder, v, x, shifted, origin):
        if _scales_by_powers(v):
            return _scale(builder, v, x, builder.fsub(shifted, origin))
        exponent = builder.sub(*(builder.bitcast(s, _int_vector(v)) for s in (shifted, origin)))
        half = builder.ashr(exponent, ir.Constant(exponent.type, [1] * v.count))
        x = builder.fmul(x, _power_of_two(builder, v, half))
        return builder.fmul(x, _power_of_two(builder, v, builder.sub(exponent, half)))

    return _vector_function(generate)(a, n, shifter)


def vector_of(array):
    """The `Vector` of the dtype of an array type."""
    return Vector(array.dtype)


@intrinsic
def splat(typingctx, like, number):
    """A vector of the dtype of the array `like` with `number` in every lane."""
    vector = vector_of(like)

    def codegen(context, builder, sig, args):
        return _operand(context, builder, args[1], sig.args[1], vector)

    return vector(like, number), codegen


@intrinsic
def is_float32(typingctx, like):
    """Whether `like`, a vector or an array, is of float32; a constant, so that the other branch costs nothing."""
    element = like.element if isinstance(like, Vector) else like.dtype

    def codegen(context, builder, sig, args):
        return context.get_constant(types.boolean, element == types.float32)

    return types.boolean(like), codegen


@intrinsic
def by_dtype(typingctx, like, for_float32, for_float64):
    """One of two numbers as a vector like `like`."""
    if not isinstance(like, Vector):
        return None

    def codegen(context, builder, sig, args):
        position = 1 if like.element == types.float32 else 2
        return _operand(context, builder, args[position], sig.args[position], like)

    return like(like, for_float32, for_float64), codegen


@intrinsic
def load(typingctx, array, offset):
    """LANES elements from `array[offset]` on."""
    vector = vector_of(array)

    def codegen(context, builder, sig, args):
        pointer = builder.gep(array_data(context, builder, sig.args[0], args[0]), [args[1]])
        return load_vector(builder, pointer, llvm_vector(vector))

    return vector(array, types.intp), codegen


@intrinsic
def store(typingctx, array, offset, value):
    """Write LANES elements from `array[offset]` on."""

    def codegen(context, builder, sig, args):
        store_vector(builder, args[2], builder.gep(array_data(context, builder, sig.args[0], args[0]), [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


def mask_of_first(builder, vector_type, count):
    """Emit the mask of the first `count` lanes."""
    lanes = ir.VectorType(I64, vector_type.count)
    numbers = ir.Constant(lanes, list(range(vector_type.count)))
    return builder.icmp_signed("<", numbers, splat_scalar(builder, count, lanes))


def load_masked(builder, pointer, vector_type, mask):
    """Emit a load of some lanes; the others are zero, and nothing is read for them."""
    zero = ir.Constant(vector_type, [0.0] * vector_type.count)
    align = ir.Constant(I32, _element_bytes(vector_type))
    signature = ir.FunctionType(vector_type, [pointer.type, I32, mask.type, vector_type])
    function = cgutils.get_or_insert_function(builder.module, signature, _masked_name("load", vector_type))
    return builder.call(function, [pointer, align, mask, zero])


def store_masked(builder, value, pointer, mask):
    """Emit a store of some lanes."""
    align = ir.Constant(I32, _element_bytes(value.type))
    signature = ir.FunctionType(ir.VoidType(), [value.type, pointer.type, I32, mask.type])
    function = cgutils.get_or_insert_function(builder.module, signature, _masked_name("store", value.type))
    builder.call(function, [value, pointer, align, mask])


def _masked_name(operation, vector_type):
    return f"llvm.masked.{operation}.v{vector_type.count}f{8 * _element_bytes(vector_type)}.p0"


@intrinsic
def load_first(typingctx, array, offset, count):
    """As `load`, but only the first `count` elements are read; the other lanes are zero. Any `count` will do."""
    vector = vector_of(array)

    def codegen(context, builder, sig, args):
        pointer = builder.gep(array_data(context, builder, sig.args[0], args[0]), [args[1]])
        v = llvm_vector(vector)
        return load_masked(builder, pointer, v, mask_of_first(builder, v, args[2]))

    return vector(array, types.intp, types.intp), codegen


@intrinsic
def store_first(typingctx, array, offset, count, value):
    """As `store`, but only the first `count` elements are written. Any `count` will do."""

    def codegen(context, builder, sig, args):
        pointer = builder.gep(array_data(context, builder, sig.args[0], args[0]), [args[1]])
        store_masked(builder, args[3], pointer, mask_of_first(builder, args[3].type, args[2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), codegen


def _row(builder, pointer, offset, stride, number):
    return builder.gep(pointer, [builder.add(offset, builder.mul(stride, I64(number)))])


def _emit_transpose(builder, rows):
    """The transpose of as many vectors as they have lanes."""
    rows, count = list(rows), len(rows)
    bit = 1
    while bit < count:  # exchange this bit of the number of a row with that of the column
        upper = [c if c & bit == 0 else count + c - bit for c in range(count)]
        lower = [c + bit if c & bit == 0 else count + c for c in range(count)]
        for r in range(count):
            if r & bit == 0:
                pair = rows[r], rows[r + bit]
                for number, order in ((r, upper), (r + bit, lower)):
                    rows[number] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, count), order))
        bit *= 2
    return rows


@intrinsic
def transpose_block(typingctx, source, source_offset, source_stride, target, target_offset, target_stride):
    """Write the transpose of a block of LANES x LANES elements; rows lie at their strides."""
    vector = vector_of(source)

    def codegen(context, builder, sig, args):
        v = llvm_vector(vector)
        source, target = (array_data(context, builder, sig.args[i], args[i]) for i in (0, 3))
        _, from_offset, from_stride, _, to_offset, to_stride = args
        rows = [load_vector(builder, _row(builder, source, from_offset, from_stride, r), v) for r in range(v.count)]
        for r, value in enumerate(_emit_transpose(builder, rows)):
            store_vector(builder, value, _row(builder, target, to_offset, to_stride, r))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen


@intrinsic
def transpose_edge(typingctx, source, source_offset, source_stride, rows, columns, target, target_offset, target_stride,
                   lines, width):  # fmt: skip
    """As `transpose_block` for a block of which only some rows and columns exist; the others count as zeros.

    Writes `lines` lines of `width` elements.
    """
    vector, n = vector_of(source), types.intp

    def codegen(context, builder, sig, args):
        v = llvm_vector(vector)
        source, target = (array_data(context, builder, sig.args[i], args[i]) for i in (0, 5))
        _, from_offset, from_stride, rows, columns, _, to_offset, to_stride, lines, width = args

        def mask(number, end, count):
            return mask_of_first(builder, v, builder.select(builder.icmp_signed("<", I64(number), end), count, I64(0)))

        there = [_row(builder, source, from_offset, from_stride, r) for r in range(v.count)]
        given = [load_masked(builder, pointer, v, mask(r, rows, columns)) for r, pointer in enumerate(there)]
        for r, value in enumerate(_emit_transpose(builder, given)):
            pointer = _row(builder, target, to_offset, to_stride, r)
            store_masked(builder, value, pointer, mask(r, lines, width))
        return context.get_dummy_value()

    return types.void(source, n, n, n, n, target, n, n, n, n), codegen


@intrinsic
def prefetch(typingctx, array, offset):
    """Ask for the cache line of an element that will be read; it need not exist."""

    def codegen(context, builder, sig, args):
        emit_prefetch(builder, builder.gep(array_data(context, builder, sig.args[0], args[0]), [args[1]]), READ)
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def lanes(typingctx, array):
    """LANES of the dtype of `array`, a constant to the compiler."""
    count = vector_of(array).lanes

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, count)

    return types.intp(array), codegen


@intrinsic
def element_bytes(typingctx, array):
    """Bytes of an element of `array`, a constant to the compiler."""
    count = array.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, count)

    return types.intp(array), codegen
