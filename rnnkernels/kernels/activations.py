"""Sigmoid, tanh and exp of vectors: branch-free, without overflow, NaN stays NaN, at most 2 ulp from the exact value.

All three start from the same reduction [1]_: x = n ln 2 + r with |r| <= ln 2 / 2 and

    exp(r) = 1 + r + r**2 q(r)                                      (1)
    sigmoid(x) = s - s e / (1 + e), e = exp(-|x|), s = 1 for x >= 0, else e               (2)
    tanh(|x|) = s - s w, m = (exp(2 |x|) - 1) / 2, s = min(m, 1), w = s / (m + 1)         (3)

q is a polynomial fitted at Chebyshev points. ln 2 is split in two (Cody and Waite), and n times the first part is
exact. (2) and (3) are the quotients e / (1 + e) and m / (m + 1) in a form where nothing cancels, near 0 or in the
tails, and where the rounding errors of divisor and quotient enter the result only as a small correction of s.

References
----------
.. [1] J.-M. Muller, "Elementary Functions: Algorithms and Implementation", 3rd ed., Birkhaeuser, 2016, ch. 11.
"""

import math
from collections import namedtuple

import numpy as np

from rnnkernels.kernels.jit import EntryPoints, inlined, kernel
from rnnkernels.kernels.simd import (
    absolute,
    by_dtype,
    clamp_above,
    clamp_below,
    copysign,
    fma,
    half_power_of_two,
    is_float32,
    lanes,
    load,
    load_first,
    negative,
    reduce_max,
    scale_by_power_of_two,
    splat,
    store,
    store_first,
    where_negative,
)

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693145751953125, 6.93147180369123816490e-01  # float32, float64
LN2_LOW = 1.4286068203094173e-06, 1.90821492927058770002e-10

# Adding 1.5 * 2**(mantissa bits) rounds to a whole number and leaves it in the low bits.
SHIFTER = float(3 << 22), float(3 << 51)

EXP_IS_ZERO = -105.0, -746.0
TANH_IS_ONE = 9.25, 19.25

SAME = 1e-6, 1e-15
"""Relative difference of two values of an activation that are told apart."""

Bounds = namedtuple("Bounds", "clip sigmoid tanh")
Bounds.__doc__ = """Where activations of arguments within -clip .. clip end: tanh, and sigmoid less 0.5."""


@inlined
def _reduce(x):
    """N + SHIFTER and exp(r) - 1 of equation (1), with x = n ln 2 + r."""
    shifter = by_dtype(x, SHIFTER[0], SHIFTER[1])
    shifted = fma(x, LOG2_E, shifter)
    n = shifted - shifter
    r = fma(n, by_dtype(x, -LN2_HIGH[0], -LN2_HIGH[1]), x)
    r = fma(n, by_dtype(x, -LN2_LOW[0], -LN2_LOW[1]), r)
    if is_float32(x):
        q = fma(r, 1.392640047984433e-03, 8.363352682558865e-03)
        q = fma(r, q, 4.1666553310798285e-02)
        q = fma(r, q, 1.6666575943917947e-01)
        q = fma(r, q, 0.5)
    else:
        q = fma(r, 2.5100666142918374e-08, 2.7620453391695057e-07)
        q = fma(r, q, 2.7557267868262007e-06)
        q = fma(r, q, 2.480152052648056e-05)
        q = fma(r, q, 1.984126986343555e-04)
        q = fma(r, q, 1.3888888917710368e-03)
        q = fma(r, q, 8.333333333329985e-03)
        q = fma(r, q, 4.166666666662313e-02)
        q = fma(r, q, 1.6666666666666669e-01)
        q = fma(r, q, 0.5)
    return shifted, fma(r * r, q, r)


@inlined
def exp_of_negative(x):
    """exp(x) for x <= 0; subnormal results are rounded once."""
    return _exp_from(x, by_dtype(x, EXP_IS_ZERO[0], EXP_IS_ZERO[1]))


@inlined
def _exp_from(x, least):
    """exp(x) for x <= 0, and for what is less than `least` as of that."""
    shifted, m = _reduce(clamp_below(x, least))
    return scale_by_power_of_two(m + 1.0, shifted, by_dtype(x, SHIFTER[0], SHIFTER[1]))


@inlined
def sigmoid(x):
    """Logistic function, equation (2)."""
    return sigmoid_within(x, math.inf)


@inlined
def sigmoid_within(x, clip):
    """Logistic function of x within -clip .. clip: a bound takes the place of the one there is anyway."""
    e = _exp_from(copysign(x, -1.0), clamp_below(by_dtype(x, EXP_IS_ZERO[0], EXP_IS_ZERO[1]), -clip))
    s = where_negative(x, e, 1.0)
    return fma(negative(s), e / (e + 1.0), s)


@inlined
def tanh(x):
    """Hyperbolic tangent, equation (3)."""
    return tanh_within(x, math.inf)


@inlined
def tanh_within(x, clip):
    """Hyperbolic tangent of x within -clip .. clip."""
    magnitude = clamp_above(absolute(x), clamp_above(by_dtype(x, TANH_IS_ONE[0], TANH_IS_ONE[1]), clip))
    shifted, m = _reduce(magnitude + magnitude)
    power = half_power_of_two(shifted, by_dtype(x, SHIFTER[0], SHIFTER[1]))
    m = fma(m, power, power - 0.5)
    s = clamp_above(m, 1.0)
    return copysign(fma(negative(s), s / (m + 1.0), s), x)


@inlined
def bounds_within(like, clip):
    """Bounds of activations for arrays like this one."""
    if clip == math.inf:
        return Bounds(clip, 0.5, 1.0)
    most, less = splat(like, clip), 1.0 - (SAME[0] if is_float32(like) else SAME[1])
    return Bounds(clip, (reduce_max(sigmoid(most)) - 0.5) * less, reduce_max(tanh(most)) * less)


@inlined
def left_of_sigmoid(value, bounds):
    """1 - sigmoid, of its value, a factor of its derivative; 0 in the lanes where its argument was clipped."""
    left = 1.0 - value
    if bounds.clip < math.inf:
        left = where_negative(bounds.sigmoid - absolute(value - 0.5), 0.0, left)
    return left


@inlined
def slope_of_tanh(value, bounds):
    """Derivative of tanh, of its value; 0 in the lanes where its argument was clipped."""
    slope = fma(negative(value), value, 1.0)
    if bounds.clip < math.inf:
        slope = where_negative(bounds.tanh - absolute(value), 0.0, slope)
    return slope


@kernel
def sigmoid_of_array(x, out):
    """out[i] = sigmoid(x[i]) of flat arrays; overwrites `out`."""
    n, step = x.size, lanes(x)
    whole = n - n % step
    for i in range(0, whole, step):
        store(out, i, sigmoid(load(x, i)))
    if whole < n:
        store_first(out, whole, n - whole, sigmoid(load_first(x, whole, n - whole)))


SIGMOID_OF_ARRAY = EntryPoints(sigmoid_of_array, lambda dtype: (np.zeros(1, dtype),) * 2)


@kernel
def tanh_of_array(x, out):
    """out[i] = tanh(x[i]) of flat arrays; overwrites `out`."""
    n, step = x.size, lanes(x)
    whole = n - n % step
    for i in range(0, whole, step):
        store(out, i, tanh(load(x, i)))
    if whole < n:
        store_first(out, whole, n - whole, tanh(load_first(x, whole, n - whole)))
