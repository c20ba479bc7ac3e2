"""Promises of every function: bits, layouts, dtypes, caches, non-finite values."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest
from helpers import (
    DIVIDED,
    DTYPES,
    GATES,
    assert_close,
    assert_same_bits,
    exact,
    force_packing,
    function,
    make_arguments,
)

import rnnkernels
from rnnkernels import _threads, _tuning, reference


def functions(cell):
    return function(rnnkernels, cell, "forward"), function(rnnkernels, cell, "backward")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("sizes", [(13, 12, 5, 19), (25, 3, 300, 33), (7, 70, 3, 64)])
def test_sequence__alone_has_the_bits_that_it_has_in_a_batch(rng, cell, sizes, dtype):
    forward, backward = functions(cell)
    x, h0, *weights = make_arguments(rng, GATES[cell], *sizes, dtype)
    h, cache = forward(x, h0, *weights)
    dh = rng.standard_normal(h.shape).astype(dtype)
    dx, dh0, *_ = backward(dh, cache)
    for rows in (slice(0, 1), slice(2, 4), slice(1, 7), slice(0, sizes[0] - 1)):
        part, part_cache = forward(x[rows], h0[rows], *weights)
        assert_same_bits(part, h[rows])
        part_dx, part_dh0, *_ = backward(dh[rows], part_cache)
        assert_same_bits(part_dx, dx[rows])
        assert_same_bits(part_dh0, dh0[rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("sizes", [(1, 3, 70, 65), (7, 4, 5, 19), (3, 40, 9, 33), (50, 1, 31, 48), (2, 9, 0, 16)])
def test_weights__packed_or_read_in_place_give_the_same_bits(rng, cell, sizes, dtype, monkeypatch):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], *sizes, dtype)
    dh = rng.standard_normal((sizes[0], sizes[1], sizes[3])).astype(dtype)
    results = []
    for packed in (True, False):
        force_packing(monkeypatch, packed)
        h, cache = forward(*args)
        results.append([h, *backward(dh, cache)])
    for got, want in zip(*results, strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rnn__streamed_has_the_bits_of_the_whole(rng, dtype):
    x, h0, *weights = make_arguments(rng, 1, 3, 40, 5, 19, dtype)
    h, _ = rnnkernels.rnn_forward(x, h0, *weights)
    first, _ = rnnkernels.rnn_forward(x[:, :17], h0, *weights)
    second, _ = rnnkernels.rnn_forward(x[:, 17:], first[:, -1], *weights)
    assert_same_bits(np.concatenate([first, second], axis=1), h)
    state = h0
    for t in range(40):
        state, _ = rnnkernels.rnn_step_forward(x[:, t], state, *weights)
        assert_same_bits(state, h[:, t])


@pytest.mark.parametrize("dtype", DTYPES)
def test_lstm__streamed_has_the_bits_of_the_whole(rng, dtype):
    x, h0, *weights = make_arguments(rng, 4, 3, 40, 5, 19, dtype)
    h, cache = rnnkernels.lstm_forward(x, h0, *weights)
    state, cell = h0, np.zeros_like(h0)
    for t in range(40):
        state, cell, _ = rnnkernels.lstm_step_forward(x[:, t], state, cell, *weights, keep_cache=bool(t % 2))
        assert_same_bits(state, h[:, t])
        assert_same_bits(cell, cache.c[:, t])


def test_lstm__step_by_step_backward_agrees_with_the_whole(rng):
    x, h0, *weights = make_arguments(rng, 4, 3, 6, 5, 19, np.float64)
    h, cache = rnnkernels.lstm_forward(x, h0, *weights)
    dh = rng.standard_normal(h.shape)
    dx, dh0, _, dWh, _ = rnnkernels.lstm_backward(dh, cache)
    state, cell, caches = h0, np.zeros_like(h0), []
    for t in range(6):
        state, cell, step_cache = rnnkernels.lstm_step_forward(x[:, t], state, cell, *weights)
        caches.append(step_cache)
    dstate, dcell, total = np.zeros_like(h0), np.zeros_like(h0), np.zeros_like(dWh)
    for t in reversed(range(6)):
        dx_t, dstate, dcell, _, dWh_t, _ = rnnkernels.lstm_step_backward(dh[:, t] + dstate, dcell, caches[t])
        # Not the same bits: the sum of the two parts of a gradient is rounded here, and part of a longer sum there.
        np.testing.assert_allclose(dx_t, dx[:, t], rtol=1e-12, atol=1e-13)
        total += dWh_t
    np.testing.assert_allclose(dstate, dh0, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(total, dWh, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", DIVIDED)
def test_parts__that_divide_steps_and_units_change_no_bit(rng, cell, dtype, num_threads, monkeypatch, whole_teams):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], 3, 29, 5, 83, dtype)
    h, cache = forward(*args, num_threads=1)
    dh = rng.standard_normal(h.shape).astype(dtype)
    expected = backward(dh, cache, num_threads=1)
    monkeypatch.setattr(_tuning, "FORWARD_CHUNK_BYTES", 1)
    for chunk_rows, strip_bytes, segment_flops in (
        (1, 1, 2e9),
        (1, 1 << 16, 2e9),
        (6, 1, 2e9),
        (21, 1 << 13, 2e9),
        (1000, 1, 2e9),
        (6, 1 << 16, 1.0),
        (1000, 1 << 16, 1e5),
    ):
        monkeypatch.setattr(_tuning, "FORWARD_CHUNK_ROWS", chunk_rows)
        monkeypatch.setattr(_tuning, "BACKWARD_CHUNK_ROWS", chunk_rows)
        monkeypatch.setattr(_tuning, "STRIP_BYTES", strip_bytes)
        monkeypatch.setattr(_threads, "SEGMENT_FLOPS", segment_flops)
        divided, divided_cache = forward(*args, num_threads=num_threads)
        assert_same_bits(divided, h)
        assert_same_bits(forward(*args, keep_cache=False, num_threads=num_threads)[0], h)
        gradients = backward(dh, divided_cache, num_threads=num_threads)
        for got, want in zip(gradients, backward(dh, divided_cache, num_threads=1), strict=True):
            assert_same_bits(got, want)
        for got, want in zip(gradients[:2], expected, strict=False):  # dx and dh0
            assert_same_bits(got, want)
        for got, want in zip(gradients[2:], expected[2:], strict=True):  # their sums go in parts of a chunk's rows
            assert_close(got, want, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts__of_the_other_layers_change_no_bit(rng, dtype, monkeypatch):
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 7, 5), (5, 19), (19,)))
    words, mask = rng.integers(0, 19, (3, 7)), rng.random((3, 7))

    def results():
        out, affine_cache = rnnkernels.temporal_affine_forward(x, w, b)
        embedded, embedding_cache = rnnkernels.word_embedding_forward(words, w.T)
        loss, dscores = rnnkernels.temporal_softmax_loss(out, words, mask)
        gradients = rnnkernels.temporal_affine_backward(dscores, affine_cache)
        return out, embedded, dscores, *gradients, rnnkernels.word_embedding_backward(x, embedding_cache), loss

    *whole, loss = results()
    monkeypatch.setattr(_threads, "SEGMENT_FLOPS", 1.0)  # a row at a time
    *divided, divided_loss = results()
    for position, (got, want) in enumerate(zip(divided, whole, strict=True)):
        if position == 4:  # dw is summed in parts of a segment
            assert_close(got, want, dtype, factor=8)
        else:
            assert_same_bits(got, want)
    assert_close(np.asarray(divided_loss), np.asarray(loss), dtype, factor=2)


def layouts(array):
    """The same numbers in every layout that a caller may have."""
    backward = array[..., ::-1].copy()[..., ::-1]
    spaced = np.repeat(array, 3, axis=-1)[..., ::3]
    read_only = array.copy()
    read_only.setflags(write=False)
    unaligned = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    subclass = array.view(type("Subclass", (np.ndarray,), {}))
    swapped = array.astype(array.dtype.newbyteorder())
    # C-contiguous, so that the kernels get this very memory: what they read beyond it is NaN.
    surrounded = np.full(array.size + 128, -1 if array.dtype.kind == "i" else np.nan, array.dtype)[64:-64]
    surrounded = surrounded.reshape(array.shape)
    surrounded[...] = array
    return {
        "fortran": np.asfortranarray(array),
        "backward": backward,
        "spaced": spaced,
        "read-only": read_only,
        "unaligned": unaligned,
        "subclass": subclass,
        "byte-swapped": swapped,
        "surrounded": surrounded,
    }


@pytest.mark.parametrize("layout", layouts(np.zeros((2, 2))))
@pytest.mark.parametrize("cell", GATES)
def test_layout__does_not_matter_and_inputs_are_not_changed(rng, cell, layout):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], 3, 5, 7, 9, np.float32)
    h, cache = forward(*args)
    dh = rng.standard_normal(h.shape).astype(np.float32)
    expected = backward(dh, cache)
    laid_out = [layouts(a)[layout] for a in args]
    copies = [a.copy() for a in laid_out]
    got, cache = forward(*laid_out)
    assert_same_bits(got, h)
    for a, b in zip(backward(layouts(dh)[layout], cache), expected, strict=True):
        assert_same_bits(a, b)
        assert type(a) is np.ndarray
    for a, b in zip(laid_out, copies, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_and_caches__are_not_changed_by_any_function(rng, dtype):
    arguments = []

    def arrays(value):
        if isinstance(value, np.ndarray):
            return [value]
        fields = value if isinstance(value, tuple) else [getattr(value, f.name) for f in dataclasses.fields(value)]
        return [a for field in fields for a in arrays(field)]

    def call(function, *args):
        arguments.append((args, [[array.copy() for array in arrays(value)] for value in args]))
        return function(*args)

    words, mask = rng.integers(0, 19, (3, 7)), rng.random((3, 7))
    for cell, gates in GATES.items():
        x, h0, Wx, Wh, b = make_arguments(rng, gates, 3, 7, 5, 19, dtype)
        h, cache = call(function(rnnkernels, cell, "forward"), x, h0, Wx, Wh, b)
        call(function(rnnkernels, cell, "backward"), h, cache)
        states = (h0, h[:, 0]) if cell == "lstm" else (h0,)
        *states, cache = call(function(rnnkernels, cell, "step_forward"), x[:, 0], *states, Wx, Wh, b)
        call(function(rnnkernels, cell, "step_backward"), *states, cache)
    out, cache = call(rnnkernels.temporal_affine_forward, x, Wx, b)
    call(rnnkernels.temporal_affine_backward, out, cache)
    call(rnnkernels.temporal_softmax_loss, out, words, mask)
    out, cache = call(rnnkernels.word_embedding_forward, words, Wh)
    call(rnnkernels.word_embedding_backward, out, cache)
    call(rnnkernels.sigmoid, x)

    for args, copies in arguments:
        for value, copied in zip(args, copies, strict=True):
            for array, before in zip(arrays(value), copied, strict=True):
                assert_same_bits(array, before)


def test_memory_map__is_an_input_like_others(rng, tmp_path):
    args = make_arguments(rng, 4, 2, 30, 4, 5, np.float32)
    path = tmp_path / "x.npy"
    np.save(path, args[0])
    mapped = np.load(path, mmap_mode="r")
    assert_same_bits(rnnkernels.lstm_forward(mapped, *args[1:])[0], rnnkernels.lstm_forward(*args)[0])
    del mapped


def test_layout__does_not_matter_to_the_other_layers(rng):
    x, w, b = (rng.standard_normal(shape) for shape in ((2, 3, 4), (4, 5), (5,)))
    out, cache = rnnkernels.temporal_affine_forward(x, w, b)
    dout = rng.standard_normal(out.shape)
    gradients = rnnkernels.temporal_affine_backward(dout, cache)
    y, mask = rng.integers(0, 5, (2, 3)), rng.random((2, 3))
    loss, dx = rnnkernels.temporal_softmax_loss(out, y, mask)
    for name in layouts(x):
        got, cache = rnnkernels.temporal_affine_forward(*(layouts(a)[name] for a in (x, w, b)))
        assert_same_bits(got, out)
        for a, c in zip(rnnkernels.temporal_affine_backward(layouts(dout)[name], cache), gradients, strict=True):
            assert_same_bits(a, c)
        got_loss, got_dx = rnnkernels.temporal_softmax_loss(*(layouts(a)[name] for a in (out, y, mask)))
        assert got_loss == loss
        assert_same_bits(got_dx, dx)
        embedded, cache = rnnkernels.word_embedding_forward(layouts(y)[name], layouts(w.T.copy())[name])
        assert_same_bits(embedded, w.T[y])


@pytest.mark.parametrize("cell", GATES)
def test_dtypes__are_promoted_as_by_numpy(rng, cell):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], 2, 3, 4, 9, np.float32)
    wide = [a.astype(np.float64) for a in args]
    expected, expected_cache = forward(*wide)
    for position in (0, 2, 3, 4):  # not that of the state, which is converted to the others'
        mixed = [w if i == position else a for i, (a, w) in enumerate(zip(args, wide, strict=True))]
        assert_same_bits(forward(*mixed)[0], expected)
    assert_same_bits(forward(args[0], wide[1], *args[2:])[0], forward(*args)[0])
    assert_same_bits(forward(*(a.tolist() for a in args))[0], expected)
    whole = [np.rint(3 * a).astype(np.int32) for a in args]
    assert_same_bits(forward(*whole)[0], forward(*(a.astype(np.float64) for a in whole))[0])

    h, cache = forward(*args)
    dh = rng.standard_normal(h.shape)
    promoted = backward(dh, cache)
    for a, b in zip(promoted, backward(dh, expected_cache), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    narrow = backward(dh.astype(np.float32), expected_cache)
    for a, b in zip(narrow, backward(dh.astype(np.float32).astype(np.float64), expected_cache), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
def test_keep_cache__off_gives_the_same_bits_and_none(rng, cell, dtype):
    forward, _ = functions(cell)
    args = make_arguments(rng, GATES[cell], 5, 33, 6, 21, dtype)
    h, cache = forward(*args)
    inference, nothing = forward(*args, keep_cache=False)
    assert_same_bits(inference, h)
    assert nothing is None
    assert cache is not None


def test_keep_cache__off_is_known_to_every_forward(rng):
    x, prev_h, *weights = make_arguments(rng, 1, 2, 1, 3, 4, np.float64)
    assert rnnkernels.rnn_step_forward(x[:, 0], prev_h, *weights, keep_cache=False)[1] is None
    assert rnnkernels.temporal_affine_forward(x, np.ones((3, 2)), np.ones(2), keep_cache=False)[1] is None
    assert rnnkernels.word_embedding_forward([[0]], np.ones((3, 2)), keep_cache=False)[1] is None
    x, prev_h, *weights = make_arguments(rng, 4, 2, 1, 3, 4, np.float64)
    assert rnnkernels.lstm_step_forward(x[:, 0], prev_h, prev_h, *weights, keep_cache=False)[2] is None


@pytest.mark.parametrize("cell", GATES)
def test_cache__holds_references_and_serves_again(rng, cell):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], 4, 9, 6, 21, np.float32)
    h, cache = forward(*args)
    for name, argument in zip(("x", "h0", "Wx", "Wh"), args, strict=False):
        assert getattr(cache, name) is argument
    dh = rng.standard_normal(h.shape).astype(np.float32)
    expected = backward(dh, cache)
    h[...] = np.nan  # the result belongs to the caller
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        for gradients in executor.map(lambda _: backward(dh, cache), range(8)):
            for a, b in zip(gradients, expected, strict=True):
                assert_same_bits(a, b)


def test_inputs__are_read_anew_at_each_call(rng):
    args = make_arguments(rng, 4, 2, 3, 4, 5, np.float64)
    before, _ = rnnkernels.lstm_forward(*args)
    args[3] += 0.25  # the same object with other numbers, as an optimiser leaves it
    after, _ = rnnkernels.lstm_forward(*args)
    assert (before != after).any()
    assert_same_bits(after, rnnkernels.lstm_forward(*(a.copy() for a in args))[0])


def assert_same_but_for_rounding(got, want):
    """Compare where `want` is finite, and ask for the same NaN and infinities elsewhere."""
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite].astype(got.dtype))
    assert_close(got[finite], want[finite], got.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hidden", [9, 16])
def test_non_finite_input__propagates_as_in_numpy(rng, cell, dtype, number, hidden):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], 3, 5, 4, hidden, dtype)
    args[0][1, 2, 3] = number
    h, cache = forward(*args)
    dh = rng.standard_normal(h.shape).astype(dtype)
    with np.errstate(invalid="ignore"):
        expected_h, tape = function(reference, cell, "forward")(*exact(args))
        expected = function(reference, cell, "backward")(*exact([dh]), tape)
    for got, want in zip((h, *backward(dh, cache)), (expected_h, *expected), strict=True):
        assert_same_but_for_rounding(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hidden", [9, 16])
def test_non_finite_gradient__propagates_as_in_numpy(rng, cell, dtype, number, hidden):
    forward, backward = functions(cell)
    # Weights of one sign, so that infinities do not meet their opposites; small ones, so that no gate is saturated.
    args = [np.abs(a / 10) for a in make_arguments(rng, GATES[cell], 3, 5, 4, hidden, dtype)]
    h, cache = forward(*args)
    dh = rng.standard_normal(h.shape).astype(dtype)
    dh[1, 3, 2] = number
    with np.errstate(invalid="ignore"):
        _, tape = function(reference, cell, "forward")(*exact(args))
        expected = function(reference, cell, "backward")(*exact([dh]), tape)
    for got, want in zip(backward(dh, cache), expected, strict=True):
        assert_same_but_for_rounding(got, want)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_non_finite_values__pass_the_other_layers_as_in_numpy(rng, number):
    args = [np.abs(rng.standard_normal(shape)) for shape in ((2, 5, 3), (3, 19), (19,))]
    args[0][1, 2, 1] = number
    out, cache = rnnkernels.temporal_affine_forward(*args)
    dout = np.abs(rng.standard_normal(out.shape))
    dout[0, 1, 17] = number
    with np.errstate(invalid="ignore"):
        expected_out, tape = reference.temporal_affine_forward(*exact(args))
        expected = reference.temporal_affine_backward(*exact([dout]), tape)
    for got, want in zip(
        (out, *rnnkernels.temporal_affine_backward(dout, cache)), (expected_out, *expected), strict=True
    ):
        assert_same_but_for_rounding(got, want)

    words, W = rng.integers(0, 4, (2, 5)), rng.standard_normal((4, 19))
    W[2, 18] = number
    embedded, cache = rnnkernels.word_embedding_forward(words, W)
    assert_same_bits(embedded, W[words])
    dW = np.zeros_like(W)
    np.add.at(dW, words, dout)
    assert_same_bits(rnnkernels.word_embedding_backward(dout, cache), dW)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 18])
def test_non_finite_score__propagates_as_in_numpy(rng, dtype, number, place):
    x = rng.standard_normal((2, 4, 19)).astype(dtype)
    x[0, 1, place] = x[1, 0, place] = number
    y, mask = np.full((2, 4), 18), np.ones((2, 4))
    mask[1, 0] = 0  # this step does not count
    loss, dx = rnnkernels.temporal_softmax_loss(x, y, mask)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected, expected_dx = reference.temporal_softmax_loss(*exact([x]), y, mask)
    assert_same_but_for_rounding(np.atleast_1d(loss), np.atleast_1d(expected))
    assert_same_but_for_rounding(dx, expected_dx)
    assert not dx[1, 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_gates__are_exact(dtype):
    H = 9
    b = np.concatenate([np.full(H, v, dtype) for v in (1e4, -1e4, 1e4, -1e4)])  # i = 1, f = 0, o = 1, g = -1
    zeros = np.zeros((2, H), dtype)
    h, cache = rnnkernels.lstm_forward(
        np.zeros((2, 3, 1), dtype), zeros, np.zeros((1, 4 * H), dtype), np.zeros((H, 4 * H), dtype), b
    )
    assert (cache.i == 1).all()
    assert (cache.f == 0).all()
    assert (cache.o == 1).all()
    assert (cache.g == -1).all()
    assert_close(h, np.full(h.shape, np.tanh(np.longdouble(-1))), dtype, factor=2)
    gradients = rnnkernels.lstm_backward(np.ones_like(h), cache)
    assert not any(g.any() for g in gradients)


@pytest.mark.slow
def test_inference_memory__does_not_grow_with_the_steps():
    import tracemalloc

    def peak_beyond_arrays_bytes(T):
        args = [np.zeros(shape, np.float32) for shape in ((1, T, 4), (1, 16), (4, 64), (16, 64), (64,))]
        tracemalloc.start()
        h, _ = rnnkernels.lstm_forward(*args, keep_cache=False)
        peak = tracemalloc.get_traced_memory()[1] - h.nbytes
        tracemalloc.stop()
        return peak

    peak_beyond_arrays_bytes(20_000)  # loads all kernels that the others use
    assert peak_beyond_arrays_bytes(200_000) < peak_beyond_arrays_bytes(20_000) + 100_000
