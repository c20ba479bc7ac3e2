"""Sigmoid and tanh: at most 2 ulp from exact, over every float32 and densely over float64."""

import concurrent.futures
import os

import numpy as np
import pytest
from helpers import DTYPES

import rnnkernels
from rnnkernels import _threads, activations, reference
from rnnkernels.kernels import activations as kernels

ULP = 2.0
FUNCTIONS = {"sigmoid": (kernels.sigmoid_of_array, reference.sigmoid), "tanh": (kernels.tanh_of_array, np.tanh)}


def evaluate(kernel, x):
    out = np.full_like(x, np.nan)
    kernel(x, out)
    return out


def largest_error_ulp(got, exact):
    """Largest error in units of the last place of the exact value, in the dtype of `got`."""
    spacing = np.spacing(np.abs(exact).astype(got.dtype)).astype(exact.dtype)
    return float((np.abs(got.astype(exact.dtype) - exact) / spacing).max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32__is_right_over_a_sample_of_all_values(name):
    kernel, function = FUNCTIONS[name]
    x = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[~np.isnan(x)]
    with np.errstate(under="ignore"):
        assert largest_error_ulp(evaluate(kernel, x), function(x.astype(np.float64))) <= ULP


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32__is_right_over_many_values(name):
    """Every eleventh of all, or with RNNKERNELS_TEST_ALL_VALUES=1 each."""
    kernel, function = FUNCTIONS[name]
    stride = 1 if os.environ.get("RNNKERNELS_TEST_ALL_VALUES") == "1" else 11
    # Beyond these magnitudes the functions are what the tests at the edges say: x or 1/2, and 0 or 1.
    first, last = np.array([2.0**-14, 110.0], np.float32).view(np.uint32)

    def largest_error_from(begin):
        bits = np.arange(begin, min(begin + (stride << 22), last), stride, dtype=np.uint32)
        with np.errstate(under="ignore"):
            return max(
                largest_error_ulp(evaluate(kernel, x), function(x.astype(np.float64)))
                for x in (bits.view(np.float32), (bits | np.uint32(1 << 31)).view(np.float32))
            )

    with concurrent.futures.ThreadPoolExecutor() as executor:
        worst = max(executor.map(largest_error_from, range(first, last, stride << 22)))
    assert worst <= ULP


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32__of_tiny_arguments_is_right(name):
    x = np.arange(0, np.array(2.0**-14, np.float32).view(np.uint32), 997, dtype=np.uint32).view(np.float32)
    for signed in (x, -x):
        got = evaluate(FUNCTIONS[name][0], signed)
        assert largest_error_ulp(got, FUNCTIONS[name][1](signed.astype(np.float64))) <= ULP


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64__is_right_over_dense_samples(rng, name):
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("this platform has nothing more exact than float64")
    kernel, function = FUNCTIONS[name]
    x = np.concatenate(
        [
            np.linspace(-750, 750, 1_000_001),
            np.linspace(-25, 25, 1_000_001),
            np.linspace(-1, 1, 1_000_001),
            rng.standard_normal(1_000_000) * 10.0 ** rng.uniform(-300, 3, 1_000_000),
        ]
    )
    with np.errstate(under="ignore"):
        assert largest_error_ulp(evaluate(kernel, x), function(x.astype(np.longdouble))) <= ULP


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges__are_exact(dtype):
    largest, tiny = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4, largest, -largest, tiny, -tiny], dtype)
    np.testing.assert_array_equal(evaluate(kernels.sigmoid_of_array, x), [np.nan, 1, 0, 0.5, 0.5, 1, 0, 1, 0, 0.5, 0.5])
    got = evaluate(kernels.tanh_of_array, x)
    np.testing.assert_array_equal(got, np.array([np.nan, 1, -1, 0.0, -0.0, 1, -1, 1, -1, tiny, -tiny], dtype))
    assert np.signbit(got[4])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*range(20), 63, 64, 65])
def test_array__of_any_size_is_filled_and_not_more(rng, dtype, size):
    x, out = rng.standard_normal(size).astype(dtype), np.full(size + 1, 7, dtype)
    kernels.sigmoid_of_array(x, out[:size])
    for i in range(size):
        assert out[i] == rnnkernels.sigmoid(x[i : i + 1])[0]
    assert out[size] == 7


def test_sigmoid__keeps_shape_and_dtype(rng):
    for shape in ((), (3,), (2, 0), (2, 3, 4)):
        x = rng.standard_normal(shape).astype(np.float32)
        assert rnnkernels.sigmoid(x).shape == shape
        assert rnnkernels.sigmoid(x).dtype == np.float32
    assert rnnkernels.sigmoid(3).dtype == np.float64
    np.testing.assert_array_equal(rnnkernels.sigmoid([[0, 1]]), rnnkernels.sigmoid(np.array([[0.0, 1.0]])))


def test_sigmoid__looks_up_between_parts_of_a_long_call(rng, monkeypatch):
    x = rng.standard_normal(1000)
    want = rnnkernels.sigmoid(x)
    sizes, kernel = [], kernels.SIGMOID_OF_ARRAY[x.dtype]
    monkeypatch.setattr(activations, "SMALL", 100)
    monkeypatch.setattr(_threads, "SEGMENT_FLOPS", 300 * activations.FLOPS_EACH)
    monkeypatch.setitem(
        kernels.SIGMOID_OF_ARRAY, x.dtype, lambda part, out: sizes.append(part.size) or kernel(part, out)
    )
    np.testing.assert_array_equal(rnnkernels.sigmoid(x), want)
    assert sizes == [300, 300, 300, 100]
