"""Clipping of gradients by their norm, taken together."""

import numpy as np
import pytest
from helpers import DTYPES, assert_same_bits

from rnnkernels import clip_gradients


def make_gradients(rng, dtype):
    return {"W": rng.standard_normal((300, 201)).astype(dtype), "b": rng.standard_normal(7), "e": np.zeros((0, 3))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6, np.inf])
def test_clip__is_that_of_torch(rng, dtype, limit):
    torch = pytest.importorskip("torch")
    gradients = make_gradients(rng, dtype)
    parameters = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in gradients.values()]
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    want = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    norm = clip_gradients(gradients, limit)
    assert isinstance(norm, float)
    assert norm == pytest.approx(want, rel=1e-12)
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-5, atol=1e-12)  # torch adds 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip__scales_all_alike_and_in_place(rng, dtype):
    gradients = make_gradients(rng, dtype)
    before = {name: gradient.copy() for name, gradient in gradients.items()}
    arrays = dict(gradients)
    norm = clip_gradients(gradients, 2.0)
    assert np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients.values())) == pytest.approx(2.0)
    for name, gradient in gradients.items():
        assert gradient is arrays[name]
        assert_same_bits(gradient, before[name] * gradient.dtype.type(2.0 / norm))


def test_clip__leaves_small_gradients_as_they_are(rng):
    gradients = make_gradients(rng, np.float32)
    before = {name: gradient.copy() for name, gradient in gradients.items()}
    norm = clip_gradients(gradients, np.inf)
    assert clip_gradients(gradients, norm) == norm
    for name, gradient in gradients.items():
        assert_same_bits(gradient, before[name])


def test_norm__of_many_float32_is_accurate():
    gradients = {"W": np.full(3_000_001, 0.1, np.float32)}
    want = float(np.float32(0.1)) * np.sqrt(3_000_001)
    assert clip_gradients(gradients, np.inf) == pytest.approx(want, rel=1e-12)
    assert clip_gradients({"W": np.full(2, 3e38, np.float32)}, np.inf) == pytest.approx(3e38 * np.sqrt(2), rel=1e-7)
    assert clip_gradients({}, 1.0) == 0.0


def test_clip__takes_views_and_their_memory_changes():
    whole = np.full((4, 6), 2.0, np.float32)
    assert clip_gradients({"W": whole[::2, ::3]}, 2.0) == 4.0
    assert (whole[::2, ::3] == 1).all()
    assert whole.sum() == 4 + 2 * 20


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clip__tells_of_what_is_not_finite_and_changes_nothing(value):
    gradients = {"W": np.array([3.0, value]), "b": np.ones(2, np.float32)}
    norm = clip_gradients(gradients, 1.0)
    assert np.isnan(norm) if np.isnan(value) else norm == np.inf
    assert gradients["W"][0] == 3
    assert (gradients["b"] == 1).all()
    huge = {"W": np.array([1e200])}
    assert clip_gradients(huge, 1.0) == np.inf
    assert huge["W"] == 1e200


def test_clip__names_what_is_wrong():
    frozen = np.ones(2)
    frozen.setflags(write=False)
    for gradients, limit, error, message in (
        ([np.ones(2)], 1, TypeError, "`gradients` must be a dict"),
        ({"W": [1.0]}, 1, TypeError, r"`gradients\['W'\]` must be an array of float32 or float64; got list"),
        ({"W": np.ones(2, int)}, 1, TypeError, "got an array of int64"),
        ({"W": frozen}, 1, ValueError, r"`gradients\['W'\]` must be writable"),
        ({}, -1, ValueError, "`max_norm` must be at least 0"),
        ({}, np.nan, ValueError, "`max_norm` must be at least 0"),
        ({}, "1", TypeError, "`max_norm` must be a number"),
    ):
        with pytest.raises(error, match=message):
            clip_gradients(gradients, limit)
