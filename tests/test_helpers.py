"""The tests' own tools can fail."""

import helpers
import numpy as np
import pytest

from rnnkernels import _packed, _sequence


@pytest.mark.parametrize("dtype", helpers.DTYPES)
def test_assert_close__rejects_an_error_above_its_bound(dtype):
    want = np.linspace(-1, 1, 7)
    helpers.assert_close(want.astype(dtype), want, dtype)
    wrong = want.astype(dtype)
    wrong[3] += 2 * helpers.TOLERANCE_EPS * np.finfo(dtype).eps
    with pytest.raises(AssertionError, match="above"):
        helpers.assert_close(wrong, want, dtype)


def test_assert_close__rejects_nan_dtype_and_shape():
    want = np.ones(3)
    for wrong in (np.array([1.0, np.nan, 1.0]), np.ones(3, np.float32), np.ones((3, 1))):
        with pytest.raises(AssertionError):
            helpers.assert_close(wrong, want, np.float64)


def test_assert_same_bits__tells_zeros_apart():
    helpers.assert_same_bits(np.array([np.nan, 0.0]), np.array([np.nan, 0.0]))
    with pytest.raises(AssertionError):
        helpers.assert_same_bits(np.array([0.0]), np.array([-0.0]))


def test_numerical_gradient__of_a_cubic_is_exact():
    x = np.array([0.5, -2.0])
    np.testing.assert_allclose(helpers.numerical_gradient(lambda: x**3, x, np.array([1.0, 2.0])), [0.75, 24.0])


def test_guarded_memory__is_what_the_package_gets_and_is_not_a_number():
    assert np.isnan(_sequence.empty((2, 3), np.dtype(np.float32))).all()
    assert np.isnan(_packed.aligned_empty((2, 3), np.dtype(np.float64))).all()
    assert _packed.aligned_empty((5,), np.dtype(np.float32)).ctypes.data % 64 == 0


@pytest.mark.parametrize("place", [-1, 6])
def test_guarded_memory__notices_what_is_written_outside(place):
    guard = helpers.GuardedMemory()
    array = guard.guarded(np.empty)((2, 3), np.dtype(np.float32))
    array.fill(0)
    guard.check()
    array.base[guard.BORDER_BYTES // 4 + place] = 0
    with pytest.raises(AssertionError, match="outside"):
        guard.check()


def test_make_arguments__vary_and_are_not_degenerate(rng):
    for a in helpers.make_arguments(rng, 4, 3, 5, 7, 9, np.float64):
        assert np.unique(a).size == a.size
