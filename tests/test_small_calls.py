"""Small calls take a way of their own: the same bits as large ones, the same checks, and the caller's own arrays."""

import numpy as np
import pytest
from helpers import DTYPES, GATES, assert_same_bits, function, make_arguments

import rnnkernels
from rnnkernels import affine, embedding, loss, reference, rnn
from rnnkernels._checks import arrays
from rnnkernels.kernels.cell import cells


def affine_calls(rng, sizes, dtype):
    N, T, D, M = sizes
    arguments = [rng.standard_normal(shape).astype(dtype) for shape in ((N, T, D), (D, M), (M,))]
    dout = rng.standard_normal((N, T, M)).astype(dtype)

    def call():
        out, cache = rnnkernels.temporal_affine_forward(*arguments, num_threads=1)
        return out, *rnnkernels.temporal_affine_backward(dout, cache, num_threads=1)

    return call


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1),
        (2, 3, 4, 5),
        (1, 1, 130, 70),
        (5, 1, 64, 129),
        (9, 1, 65, 33),
        (3, 11, 17, 140),
        (7, 10, 31, 16),
        (2, 70, 9, 8),
        (1, 65, 100, 3),
        (0, 3, 4, 5),
        (2, 3, 0, 5),
        (2, 3, 4, 0),
    ],
)
def test_affine__has_the_same_bits_in_small_and_large_calls(rng, monkeypatch, sizes, dtype):
    call = affine_calls(rng, sizes, dtype)
    small = call()
    monkeypatch.setattr(affine, "is_for_one", lambda *_: False)
    for got, want in zip(small, call(), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 7, 5), (5, 13, 33), (2, 70, 16)])
def test_loss__has_the_same_bits_in_small_and_large_calls(rng, monkeypatch, sizes, dtype):
    N, T, V = sizes
    x, y = rng.standard_normal(sizes).astype(dtype), rng.integers(0, V, (N, T))
    mask = rng.random((N, T)) * (rng.random((N, T)) < 0.8)
    small = rnnkernels.temporal_softmax_loss(x, y, mask)
    monkeypatch.setattr(loss, "is_for_one", lambda *_: False)
    for got, want in zip(small, rnnkernels.temporal_softmax_loss(x, y, mask), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 5, 16, 33, 200])
def test_embedding__has_the_same_bits_in_small_and_large_calls(rng, monkeypatch, width, dtype):
    W, words = rng.standard_normal((7, width)).astype(dtype), rng.integers(0, 7, (3, 11))
    dout = rng.standard_normal((3, 11, width)).astype(dtype)

    def call():
        out, cache = rnnkernels.word_embedding_forward(words, W)
        return out, rnnkernels.word_embedding_backward(dout, cache)

    small = call()
    monkeypatch.setattr(embedding, "is_for_one", lambda *_: False)
    for got, want in zip(small, call(), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 3, 4), (0,), (2, 0), (1, 1, 1, 1)])
def test_embedding__takes_indices_of_any_shape(rng, monkeypatch, shape, large):
    if large:
        monkeypatch.setattr(embedding, "is_for_one", lambda *_: False)
    W, words = rng.standard_normal((7, 3)), rng.integers(0, 7, shape)
    out, cache = rnnkernels.word_embedding_forward(words, W)
    assert_same_bits(out, np.asarray(W[words]))
    dout = rng.standard_normal(out.shape)
    dW = np.zeros_like(W)
    np.add.at(dW, words, dout)
    assert_same_bits(rnnkernels.word_embedding_backward(dout, cache), dW)


def test_embedding__takes_the_words_of_a_sampling_loop(rng):
    W = rng.standard_normal((7, 3))
    for words in (4, np.int32(4), [4], [4, 0], np.array([[4]], np.uint8), [[4], [0]]):
        assert_same_bits(rnnkernels.word_embedding_forward(words, W)[0], W[np.asarray(words)])
    _, cache = rnnkernels.word_embedding_forward([4, 0], W)
    with pytest.raises(ValueError, match=r"`dout` must have shape \(\*shape of x, D\) = \(2, 3\)"):
        rnnkernels.word_embedding_backward(np.ones((2, 1, 3)), cache)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("index", [-1, 7, 2**62, -(2**63)])
@pytest.mark.parametrize("place", [(), (2,), (1, 2), (0, 1, 2)])
def test_embedding__names_the_place_of_an_index_outside_in_any_shape(monkeypatch, place, index, large):
    if large:
        monkeypatch.setattr(embedding, "is_for_one", lambda *_: False)
    words = np.zeros(tuple(i + 2 for i in place), np.int64)
    _, cache = rnnkernels.word_embedding_forward(words, np.ones((7, 3)))
    words[place] = index
    where = rf"\[{', '.join(map(str, place))}\]" if place else ""
    with pytest.raises(IndexError, match=rf"`x`{where} = {index} is outside 0 <= index < V = 7"):
        rnnkernels.word_embedding_forward(words, np.ones((7, 3)))
    with pytest.raises(IndexError, match=rf"`cache.x`{where} = {index} is outside"):
        rnnkernels.word_embedding_backward(np.ones((*words.shape, 3)), cache)


def test_caches__hold_the_callers_own_arrays(rng, tmp_path):
    x, w, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5)), np.zeros(5)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    frozen = w.copy()
    frozen.flags.writeable = False
    _, cache = rnnkernels.temporal_affine_forward(np.asarray(mapped), frozen, b)
    assert not cache.x.flags.writeable
    assert np.shares_memory(cache.x, mapped)
    assert cache.w is frozen
    for array in (cache.x, cache.w):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 7
    want = rnnkernels.temporal_affine_backward(np.ones((2, 3, 5)), rnnkernels.temporal_affine_forward(x, w, b)[1])
    for got, expected in zip(rnnkernels.temporal_affine_backward(np.ones((2, 3, 5)), cache), want, strict=True):
        assert_same_bits(got, expected)

    words = np.array([[1, 2]])
    words.flags.writeable = False
    _, cache = rnnkernels.word_embedding_forward(words, frozen)
    assert cache.x is words
    assert cache.W is frozen
    _, cache = rnnkernels.temporal_affine_forward(x, w, b)
    assert cache.x is x


def test_for_kernels__shares_the_memory_of_read_only_arrays():
    array = np.arange(3.0)
    assert arrays.for_kernels(array) is array
    array.flags.writeable = False
    alias = arrays.for_kernels(array)
    assert alias.flags.writeable
    assert np.shares_memory(alias, array)
    assert arrays.check_floats("x", array)[0].flags.writeable
    assert arrays.check_given_floats("x", array)[0] is array


def test_backward__rejects_a_cache_that_was_changed(rng):
    dout = np.ones((2, 3, 5))
    x, w = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5))
    for changed in (
        {"x": np.ones((2, 3, 9))},
        {"x": np.ones((2, 3, 4), int)},
        {"x": np.asfortranarray(x)},
        {"x": x.tolist()},
        {"w": np.ones((2, 5))},
        {"w": np.ones(4)},
        {"w": w[:, ::-1]},
    ):
        cache = affine.TemporalAffineCache(**{"x": x, "w": w, **changed})
        with pytest.raises(ValueError, match=rf"`cache.{next(iter(changed))}` must|`cache.w` must"):
            rnnkernels.temporal_affine_backward(dout, cache)
    words = np.zeros((2, 3), np.intp)
    for changed in ({"x": words.astype(np.int8)}, {"x": words.T}, {"W": w[0]}, {"W": w.astype(np.float16)}):
        cache = embedding.WordEmbeddingCache(**{"x": words, "W": w, **changed})
        with pytest.raises(ValueError, match=rf"`cache.{next(iter(changed))}` must"):
            rnnkernels.word_embedding_backward(dout, cache)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_a_sampling_loop__agree_with_the_reference(rng, dtype):
    """One row at a time and large weights: what is read where it lies."""
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((1, 1, 300), (300, 1000), (1000,)))
    out, _ = rnnkernels.temporal_affine_forward(x, w, b)
    want, _ = reference.temporal_affine_forward(*(a.astype(np.float64) for a in (x, w, b)))
    np.testing.assert_allclose(out, want, rtol=0, atol=100 * np.finfo(dtype).eps * np.abs(want).max())


@pytest.mark.parametrize("cell", GATES)
def test_small_call__of_a_step_is_none_of_a_sequence(rng, cell):
    """A call like one before is a call of the same function."""
    x, h0, *weights = make_arguments(rng, GATES[cell], 2, 3, 4, 5, np.float32)
    forward, step = function(rnnkernels, cell, "forward"), function(rnnkernels, cell, "step_forward")
    states = (h0,) * len(cells[cell].states)
    for _ in range(2):
        forward(x, h0, *weights, outputs="last")
        with pytest.raises(ValueError, match="`x` must have shape"):
            step(x, *states, *weights)
        step(x[:, 0], *states, *weights)
        with pytest.raises(ValueError, match="`x` must have shape"):
            forward(x[:, 0], h0, *weights, outputs="last")


@pytest.mark.parametrize("cell", GATES)
def test_small_call__with_states_that_are_none_has_the_bits_of_zeros(rng, cell):
    x, h0, *weights = make_arguments(rng, GATES[cell], 2, 3, 4, 5, np.float32)
    forward, backward = (function(rnnkernels, cell, way) for way in ("forward", "backward"))
    step, zero = function(rnnkernels, cell, "step_forward"), np.zeros_like(h0)
    is_lstm, nothing = len(cells[cell].states) > 1, [None] * len(cells[cell].states)
    want = forward(x, zero, *weights, **({"c0": zero} if is_lstm else {}))
    expected = backward(want.h, want.cache)
    stepped = step(x[:, 0], *[zero] * len(nothing), *weights)
    for _ in range(3):  # the first call prepares the others
        result = forward(x, None, *weights)
        for got, wanted in zip((result.h, *result.state), (want.h, *want.state), strict=True):
            assert_same_bits(got, wanted)
        for got, wanted in zip(backward(result.h, result.cache), expected, strict=True):
            assert_same_bits(got, wanted)
        for got, wanted in zip(step(x[:, 0], *nothing, *weights)[:-1], stepped[:-1], strict=True):
            assert_same_bits(got, wanted)
        assert_same_bits(np.asarray(result.cache.h0), zero)


@pytest.mark.parametrize("cell", GATES)
def test_small_call__names_an_argument_that_is_missing(rng, cell):
    """What stands for states and second biases that are None stands for no other argument."""
    x, h0, *weights = make_arguments(rng, GATES[cell], 2, 3, 4, 5, np.float32)
    forward = function(rnnkernels, cell, "forward")
    for _ in range(2):
        forward(x, h0, *weights)
        for place, name in enumerate(("Wx", "Wh", "b")):
            with pytest.raises(TypeError, match=f"`{name}` must be an array; got None"):
                forward(x, h0, *[None if k == place else array for k, array in enumerate(weights)])


@pytest.mark.parametrize("cell", GATES)
def test_small_call__takes_transposes_as_others_do(rng, cell):
    x, h0, *weights = make_arguments(rng, GATES[cell], 2, 3, 4, 5, np.float32)
    forward, backward = (function(rnnkernels, cell, way) for way in ("forward", "backward"))
    want = forward(x, h0, *weights)
    expected = backward(want.h, want.cache)
    turned = [np.asfortranarray(array) for array in (x, *weights)]
    for _ in range(2):
        result = forward(turned[0], h0, *turned[1:])
        assert_same_bits(result.h, want.h)
        for got, wanted in zip(backward(result.h, result.cache), expected, strict=True):
            assert_same_bits(got, wanted)


def test_calls__with_many_rows_leave_no_memory_behind(rng):
    W = [rng.standard_normal(shape) for shape in ((2, 4), (4, 4), (4,))]
    kept = []
    for N in range(20000, 20010):
        h, cache = rnnkernels.rnn_step_forward(np.zeros((N, 2)), np.zeros((N, 4)), *W)
        rnnkernels.rnn_step_backward(h, cache)
        kept.append(len(rnn.FAMILY.small) + len(rnn.FAMILY.small_backward))
    assert kept[-1] == kept[0]


def test_num_threads__that_equals_a_remembered_one_is_checked(rng):
    arguments = np.ones((2, 3, 3)), None, np.ones((3, 4)), np.ones((4, 4)), np.zeros(4)
    result = rnnkernels.rnn_forward(*arguments, num_threads=1)
    rnnkernels.rnn_backward(result.h, result.cache, num_threads=1)
    for wrong in (1.0, True, [], "1"):
        with pytest.raises(TypeError, match="`num_threads` must be"):
            rnnkernels.rnn_forward(*arguments, num_threads=wrong)
        with pytest.raises(TypeError, match="`num_threads` must be"):
            rnnkernels.rnn_backward(result.h, result.cache, num_threads=wrong)
    with pytest.raises(ValueError, match="`num_threads` must be at least 1"):
        rnnkernels.rnn_forward(np.ones((0, 3, 3)), *arguments[1:], num_threads=-3)


def test_outputs__that_are_no_word_are_named(rng):
    arguments = np.ones((2, 3, 3)), None, np.ones((3, 4)), np.ones((4, 4)), np.zeros(4)
    for wrong in (np.array(["all", "last"]), None, 3):
        with pytest.raises(ValueError, match="`outputs` must be one of"):
            rnnkernels.rnn_forward(*arguments, outputs=wrong)


def test_step_backward__refuses_the_cache_of_sequences(rng):
    W = rng.standard_normal((3, 4)), rng.standard_normal((4, 4)), np.zeros(4)
    for T, options in ((1, {"lengths": [0, 1]}), (3, {"lengths": [1, 1]}), (3, {}), (3, {"checkpoint_every": 1})):
        _, cache = rnnkernels.rnn_forward(rng.standard_normal((2, T, 3)), np.zeros((2, 4)), *W, **options)
        with pytest.raises(ValueError, match="`cache` must be that of rnn_step_forward"):
            rnnkernels.rnn_step_backward(np.ones((2, 4)), cache)
