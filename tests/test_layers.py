"""Embedding, affine and loss kernels against `reference`: values and every gradient."""

import helpers
import numpy as np
import pytest
from helpers import DTYPES, assert_all_close, assert_close, exact

import rnnkernels
from rnnkernels import reference

EDGES = [1, 5, 7, 8, 9, 15, 16, 17, 33]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", EDGES)
def test_word_embedding__is_the_same_as_numpy(rng, dtype, width):
    W, words = rng.standard_normal((11, width)).astype(dtype), rng.integers(0, 11, (3, 13))
    out, cache = rnnkernels.word_embedding_forward(words, W)
    helpers.assert_same_bits(out, W[words])
    dout = rng.standard_normal(out.shape).astype(dtype)
    dW = np.zeros_like(W)
    np.add.at(dW, words, dout)
    helpers.assert_same_bits(rnnkernels.word_embedding_backward(dout, cache), dW)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64])
def test_word_embedding__takes_every_integer_dtype(rng, dtype):
    W = rng.standard_normal((100, 3))
    words = np.array([[0, 99, 5]], dtype)
    helpers.assert_same_bits(rnnkernels.word_embedding_forward(words, W)[0], W[words])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1), (2, 3, 4, 5), (7, 1, 9, 17), (1, 13, 16, 33), (3, 200, 41, 83), (5, 60, 300, 40), (2, 3, 0, 4)],
)
def test_temporal_affine__matches_reference(rng, sizes, dtype):
    N, T, D, M = sizes
    args = [rng.standard_normal(shape).astype(dtype) for shape in ((N, T, D), (D, M), (M,))]
    dout = rng.standard_normal((N, T, M)).astype(dtype)
    out, cache = rnnkernels.temporal_affine_forward(*args)
    expected, tape = reference.temporal_affine_forward(*exact(args))
    gradients = rnnkernels.temporal_affine_backward(dout, cache)
    assert_all_close((out, *gradients), (expected, *reference.temporal_affine_backward(*exact([dout]), tape)), dtype)


@pytest.mark.parametrize("sizes", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 4, 0)])
def test_temporal_affine__of_size_zero_is_defined(sizes):
    N, T, D, M = sizes
    out, cache = rnnkernels.temporal_affine_forward(np.ones((N, T, D)), np.ones((D, M)), np.ones(M))
    assert out.shape == (N, T, M)
    dx, dw, db = rnnkernels.temporal_affine_backward(np.ones((N, T, M)), cache)
    assert (dx.shape, dw.shape, db.shape) == ((N, T, D), (D, M), (M,))
    assert not dx.any()
    assert not dw.any()
    assert not db.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [*EDGES, 1000])
@pytest.mark.parametrize("weights", [False, True])
def test_temporal_softmax_loss__matches_reference(rng, dtype, words, weights):
    x = (3 * rng.standard_normal((4, 6, words))).astype(dtype)
    y = rng.integers(0, words, (4, 6))
    mask = rng.random((4, 6)) if weights else rng.random((4, 6)) < 0.7
    loss, dx = rnnkernels.temporal_softmax_loss(x, y, mask)
    expected, expected_dx = reference.temporal_softmax_loss(*exact([x]), y, mask)
    assert type(loss) is dtype
    assert_close(np.asarray(loss), np.asarray(expected), dtype, factor=1 if dtype is np.float32 else 16)
    assert_close(dx, expected_dx, dtype)


def test_temporal_softmax_loss__does_not_overflow():
    loss, dx = rnnkernels.temporal_softmax_loss(np.array([[[1e30, 0.0], [-1e30, 0.0]]]), [[0, 0]], [[True, False]])
    assert loss == 0.0
    assert not dx.any()


def test_temporal_softmax_loss__does_not_read_labels_that_do_not_count():
    x = np.zeros((1, 3, 2))
    loss, dx = rnnkernels.temporal_softmax_loss(x, [[1, -(10**12), 10**12]], [[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(loss, np.log(2))
    np.testing.assert_array_equal(dx, [[[0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_temporal_softmax_loss__takes_padding_of_any_value_of_every_integer_dtype(dtype):
    for padding in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        loss, _ = rnnkernels.temporal_softmax_loss(
            np.zeros((1, 2, 3)), np.array([[1, padding]], dtype), [[True, False]]
        )
        np.testing.assert_allclose(loss, np.log(3))


def test_temporal_softmax_loss__of_no_sequences_is_zero():
    loss, dx = rnnkernels.temporal_softmax_loss(np.ones((0, 3, 2)), np.ones((0, 3), int), np.ones((0, 3)))
    assert loss == 0
    assert dx.shape == (0, 3, 2)


def test_temporal_softmax_loss__propagates_nan_of_steps_that_count():
    x = np.zeros((1, 2, 20), np.float32)
    x[0, 0, 3] = np.nan
    loss, dx = rnnkernels.temporal_softmax_loss(x, [[0, 0]], [[True, True]])
    assert np.isnan(loss)
    assert np.isnan(dx[0, 0]).all()
    assert np.isfinite(dx[0, 1]).all()


@pytest.mark.parametrize("layers", [rnnkernels, reference], ids=["rnnkernels", "reference"])
def test_temporal_softmax_loss__prints_a_shape_if_asked(capsys, layers):
    arguments = np.zeros((2, 3, 4)), np.zeros((2, 3), int), np.ones((2, 3))
    layers.temporal_softmax_loss(*arguments)
    assert capsys.readouterr().out == ""
    layers.temporal_softmax_loss(*arguments, verbose=True)
    assert capsys.readouterr().out == "dx_flat:  (6, 4)\n"
