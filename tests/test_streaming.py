"""Streams: the bits of whole sequences, however the steps arrive, and a state that only good calls change."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import DTYPES, GATES, assert_same_bits, function, kind, make_arguments

import rnnkernels
from rnnkernels import _threads, streaming
from rnnkernels.kernels import micro_kernel
from rnnkernels.kernels.passes import STREAM_ROWS as CHUNK_ROWS

CELLS = sorted(GATES)
SIZES = [  # N, T, D, H
    (1, 1, 1, 1),
    (1, 2 * CHUNK_ROWS + 1, 64, 64),
    (1, 3, 40, 70),
    (3, 2 * CHUNK_ROWS, 19, 37),
    (CHUNK_ROWS // 2 + 1, 5, 3, micro_kernel.panel_columns(np.dtype(np.float32)) + 1),
    (CHUNK_ROWS + 1, 3, 300, 9),
]


def make_stream(cell, weights, *states, **options):
    return kind(rnnkernels, cell, "Stream")(*weights, *states, **options)


def forward(cell, *arguments):
    return function(rnnkernels, cell, "forward")(*arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_stream__has_the_bits_of_the_whole_sequence(rng, cell, sizes, dtype):
    x, h0, *weights = make_arguments(rng, GATES[cell], *sizes, dtype)
    T = sizes[1]
    want, cache = forward(cell, x, h0, *weights)
    stream = make_stream(cell, weights, h0)
    for t in range(T):
        assert_same_bits(stream.step(x[:, t]), want[:, t])
        assert_same_bits(stream.h, want[:, t])
        if cell == "lstm":
            assert_same_bits(stream.c, cache.c[:, t])
    stream.reset(h0)
    assert_same_bits(stream.steps(x), want)
    stream.reset(h0)
    parts = [stream.steps(x[:, begin : begin + 2]) for begin in range(0, T, 2)]
    assert_same_bits(np.concatenate(parts, axis=1), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lstm_stream__starts_from_both_states(rng, dtype):
    x, h0, *weights = make_arguments(rng, 4, 2, 6, 5, 19, dtype)
    c0 = rng.standard_normal((2, 19)).astype(dtype)
    h, c, _ = rnnkernels.lstm_step_forward(x[:, 0], h0, c0, *weights)
    stream = rnnkernels.LSTMStream(*weights, h0, c0)
    for _ in range(2):
        assert_same_bits(stream.h, h0)
        assert_same_bits(stream.c, c0)
        assert_same_bits(stream.step(x[:, 0]), h)
        assert_same_bits(stream.c, c)
        stream.reset(h0, c0)
    stream.reset()
    assert not stream.h.any()
    assert not stream.c.any()
    assert_same_bits(rnnkernels.LSTMStream(*weights, c0=c0).c, c0)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_one_row_of_a_first_state__is_that_of_all_sequences_of_the_other(rng, num_layers):
    layer = rnnkernels.LSTM.create(3, 8, num_layers=num_layers, rng=rng)
    state = rng.standard_normal((5, 8)).astype(layer.dtype)
    for states in ((state[:1], state), (state, state[:1])):
        stream = layer.stream(*states)
        held = (stream.h, stream.c) if num_layers == 1 else stream.state
        for part, given in zip(held, states, strict=True):
            shape = (5, 8) if num_layers == 1 else (2, 5, 8)
            assert_same_bits(part, np.array(np.broadcast_to(given, shape)))


@pytest.mark.parametrize("cell", CELLS)
def test_stream__keeps_its_own_weights_and_gives_its_state_away_as_copies(rng, cell):
    x, h0, *weights = make_arguments(rng, GATES[cell], 1, 4, 5, 9, np.float32)
    want, _ = forward(cell, x, h0, *weights)
    stream = make_stream(cell, weights, h0)
    for array in (h0, *weights, stream.h):
        array.fill(9)
    if cell == "lstm":
        stream.c.fill(9)
    assert_same_bits(stream.steps(x), want)


@pytest.mark.parametrize("cell", CELLS)
def test_stream__writes_to_out_and_even_over_its_input(rng, cell):
    x, h0, *weights = make_arguments(rng, GATES[cell], 2, 2 * CHUNK_ROWS, 9, 9, np.float64)
    want, _ = forward(cell, x, h0, *weights)
    stream = make_stream(cell, weights, h0)
    for t in range(2):
        here = x[:, t].copy()
        assert stream.step(here, out=here) is here
        assert_same_bits(here, want[:, t])
    stream.reset(h0)
    out = np.full_like(want, np.nan)
    assert stream.steps(x, out=out) is out
    assert_same_bits(out, want)
    stream.reset(h0)
    stream.steps(x, out=x)
    assert_same_bits(x, want)


@pytest.mark.parametrize("cell", CELLS)
def test_step__returns_a_new_array_each_time(rng, cell):
    x, h0, *weights = make_arguments(rng, GATES[cell], 1, 2, 5, 9, np.float32)
    want, _ = forward(cell, x, h0, *weights)
    stream = make_stream(cell, weights, h0)
    first, second = stream.step(x[:, 0]), stream.step(x[:, 1])
    assert_same_bits(first, want[:, 0])
    assert_same_bits(second, want[:, 1])


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda x: x.byteswap().view(x.dtype.newbyteorder()), np.ma.array]
)
def test_stream__takes_any_layout(rng, change):
    x, h0, *weights = make_arguments(rng, 4, 3, 4, 5, 9, np.float32)
    want, _ = forward("lstm", x, h0, *weights)
    stream = rnnkernels.LSTMStream(*map(change, weights), change(h0))
    assert_same_bits(stream.step(change(x[:, 0])), want[:, 0])
    assert_same_bits(stream.steps(change(x[:, 1:])), want[:, 1:])
    frozen = x[:, 0].copy()
    frozen.setflags(write=False)
    stream.reset(change(h0))
    assert_same_bits(stream.step(frozen), want[:, 0])


def test_stream__computes_in_its_own_dtype(rng):
    x, h0, *weights = make_arguments(rng, 4, 1, 2, 5, 9, np.float64)
    single = [w.astype(np.float32) for w in weights]
    want, _ = forward("lstm", x.astype(np.float32), h0.astype(np.float32), *single)
    stream = rnnkernels.LSTMStream(*single)
    stream.reset(h0)
    assert stream.dtype == np.float32
    assert_same_bits(stream.step(x[:, 0]), want[:, 0])
    assert_same_bits(stream.steps(x[:, 1:]), want[:, 1:])
    assert rnnkernels.LSTMStream(*single, h0).dtype == np.float32
    assert rnnkernels.LSTMStream(*single).step([[1, 2, 3, 4, 5]]).dtype == np.float32


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sizes", [(0, 3, 2, 4), (2, 0, 2, 4), (2, 3, 0, 4), (2, 3, 2, 0), (1, 3, 0, 0)])
def test_stream__takes_empty_sizes(rng, cell, sizes):
    x, h0, *weights = make_arguments(rng, GATES[cell], *sizes, np.float32)
    want, _ = forward(cell, x, h0, *weights)
    stream = pickle.loads(pickle.dumps(make_stream(cell, weights, h0)))
    assert_same_bits(stream.steps(x), want)
    if sizes[1]:
        stream.reset(h0)
        assert_same_bits(stream.step(x[:, 0]), want[:, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("cell", CELLS)
def test_stream__propagates_what_is_not_finite(rng, cell, bad):
    x, h0, *weights = make_arguments(rng, GATES[cell], 2, 6, 5, 9, np.float32)
    x[0, 2, 1] = bad
    want, _ = forward(cell, x, h0, *weights)
    got = make_stream(cell, weights, h0).steps(x)
    np.testing.assert_array_equal(got, want)
    assert np.isfinite(got[1]).all()
    assert np.isnan(got[0, 2:]).any() == np.isnan(want[0, 2:]).any()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_copy__is_independent_and_in_the_same_state(rng, cell, dtype, duplicate):
    x, h0, *weights = make_arguments(rng, GATES[cell], 2, 6, 5, 37, dtype)
    want, _ = forward(cell, x, h0, *weights)
    stream = make_stream(cell, weights, h0)
    stream.steps(x[:, :3])
    other = duplicate(stream)
    assert type(other) is type(stream)
    assert repr(other) == repr(stream)
    assert_same_bits(stream.steps(x[:, 3:]), want[:, 3:])
    assert_same_bits(other.steps(x[:, 3:]), want[:, 3:])


def test_streams__run_side_by_side_in_threads(rng):
    x, h0, *weights = make_arguments(rng, 4, 1, 300, 16, 64, np.float32)
    want, _ = forward("lstm", x, h0, *weights)

    def run(_):
        stream = rnnkernels.LSTMStream(*weights, h0)
        return np.stack([stream.step(x[:, t]) for t in range(300)], axis=1)

    with ThreadPoolExecutor(4) as pool:
        for h in pool.map(run, range(8)):
            assert_same_bits(h, want)


def test_stream__used_by_two_threads_does_no_harm_but_to_its_state(rng):
    x, h0, *weights = make_arguments(rng, 4, 2, 3000, 16, 64, np.float32)
    stream = rnnkernels.LSTMStream(*weights, h0)
    with ThreadPoolExecutor(4) as pool:
        for h in pool.map(lambda _: stream.steps(x), range(8)):
            assert np.isfinite(h).all()
    stream.reset(h0)  # weights are what they were
    assert_same_bits(stream.steps(x), forward("lstm", x, h0, *weights)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_steps__see_an_interrupt_between_segments(rng, cell, monkeypatch):
    x, h0, *weights = make_arguments(rng, GATES[cell], 3, 40, 5, 9, np.float32)
    want, _ = forward(cell, x, h0, *weights)
    monkeypatch.setattr(_threads, "SEGMENT_FLOPS", 7 * 2 * GATES[cell] * 3 * 9 * (5 + 9))
    stream = make_stream(cell, weights, h0)
    kernel, calls = stream._kernel, []

    def interrupted(*arguments):
        kernel(*arguments)
        calls.append(arguments[-2:])
        if len(calls) == 2:
            raise KeyboardInterrupt

    stream._kernel = interrupted
    with pytest.raises(KeyboardInterrupt):
        stream.steps(x)
    stream._kernel = kernel
    assert calls == [(0, 7), (7, 14)]
    assert_same_bits(stream.steps(x[:, 14:]), want[:, 14:])


@pytest.mark.parametrize("cell", CELLS)
def test_long_step__has_a_thread_and_a_state_of_its_own(rng, cell, monkeypatch):
    x, h0, *weights = make_arguments(rng, GATES[cell], 3, 4, 5, 9, np.float32)
    want, _ = forward(cell, x, h0, *weights)
    monkeypatch.setattr(streaming, "UNSEEN_FLOPS", 0)
    stream = make_stream(cell, weights, h0)
    assert_same_bits(stream.step(x[:, 0]), want[:, 0])
    with monkeypatch.context() as patch:
        patch.setattr(_threads, "wait", throw_interrupt)
        with pytest.raises(KeyboardInterrupt):
            stream.step(x[:, 1])
    assert_same_bits(stream.h, want[:, 0])
    assert_same_bits(stream.steps(x[:, 1:]), want[:, 1:])


def throw_interrupt(*_):
    raise KeyboardInterrupt


LSTM_WEIGHTS = np.ones((3, 16)), np.ones((4, 16)), np.ones(16)
WRONG_WEIGHTS = {
    "transposed Wx": ((np.ones((16, 3)), *LSTM_WEIGHTS[1:]), {}, ValueError, "`Wx`.*(3, 16).*transpose"),
    "transposed Wh": ((LSTM_WEIGHTS[0], np.ones((16, 4)), LSTM_WEIGHTS[2]), {}, ValueError, "`Wh`.*(4, 16).*transpose"),
    "b of 2 axes": ((*LSTM_WEIGHTS[:2], np.ones((1, 16))), {}, ValueError, "`b`.*axes"),
    "b of 15": ((*LSTM_WEIGHTS[:2], np.ones(15)), {}, ValueError, "`b`.*multiple of 4"),
    "b of 12": ((*LSTM_WEIGHTS[:2], np.ones(12)), {}, ValueError, "`Wx`.*(3, 12).*match `b`"),
    "complex": ((LSTM_WEIGHTS[0] * 1j, *LSTM_WEIGHTS[1:]), {}, TypeError, "`Wx`.*float32 or float64"),
    "h0 of 3 axes": ((*LSTM_WEIGHTS, np.ones((1, 1, 4))), {}, ValueError, "`h0`.*axes"),
    "h0 too wide": ((*LSTM_WEIGHTS, np.ones((2, 5))), {}, ValueError, "`h0`.*(2, 4)"),
    "c0 of another N": ((*LSTM_WEIGHTS, np.ones((2, 4)), np.ones((3, 4))), {}, ValueError, "`c0`.*match `h0`"),
    "batch_size": ((*LSTM_WEIGHTS, np.ones((2, 4))), {"batch_size": 3}, ValueError, "`h0`.*(3, 4).*`batch_size`"),
    "negative": (LSTM_WEIGHTS, {"batch_size": -1}, ValueError, "`batch_size`.*at least 0"),
    "no integer": (LSTM_WEIGHTS, {"batch_size": 1.5}, TypeError, "`batch_size`.*integer"),
}


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
def test_stream__names_the_argument_that_does_not_fit(case):
    arguments, options, error, message = WRONG_WEIGHTS[case]
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        rnnkernels.LSTMStream(*arguments, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.step(np.ones((1, 4))), ValueError, "`x`.*match the stream"),
        (lambda s: s.step(np.ones(3)), ValueError, r"`x`.*Pass `x\[np.newaxis\]`"),
        (lambda s: s.step(np.ones((1, 3), complex)), TypeError, "`x`.*complex"),
        (lambda s: s.step(np.ones((1, 3)), np.ones((1, 5), np.float32)), ValueError, "`out`.*match the stream"),
        (lambda s: s.step(np.ones((1, 3)), np.ones((1, 4))), TypeError, "`out`.*float32.*float64"),
        (lambda s: s.step(np.ones((1, 3)), [[0.0] * 4]), TypeError, "`out`.*list"),
        (lambda s: s.step(np.ones((1, 3)), np.ones((1, 8), np.float32)[:, ::2]), ValueError, "`out`.*contiguous"),
        (lambda s: s.steps(np.ones((5, 3))), ValueError, r"`x`.*Pass `x\[np.newaxis\]`"),
        (lambda s: s.steps(np.ones((2, 5, 3))), ValueError, r"`x`.*\(1, 5, 3\)"),
        (lambda s: s.steps(np.ones((1, 5, 3)), np.ones((1, 4, 4), np.float32)), ValueError, "`out`"),
        (lambda s: s.reset(np.ones((1, 4)), np.ones((1, 5))), ValueError, "`c0`"),
        (lambda s: s.reset(c0=np.ones((1, 4), bool)), TypeError, "`c0`"),
    ],
)
def test_erroneous_call__leaves_the_state_alone(call, error, message):
    stream = rnnkernels.LSTMStream(*(w.astype(np.float32) for w in LSTM_WEIGHTS))
    stream.step(np.ones((1, 3)))
    h, c = stream.h, stream.c
    with pytest.raises(error, match=message):
        call(stream)
    assert_same_bits(stream.h, h)
    assert_same_bits(stream.c, c)


def test_out__that_is_read_only_is_refused():
    stream = rnnkernels.RNNStream(np.ones((2, 3)), np.ones((3, 3)), np.ones(3))
    out = np.zeros((1, 3))
    out.setflags(write=False)
    with pytest.raises(ValueError, match=r"`out`.*writable"):
        stream.step(np.ones((1, 2)), out=out)
    assert not out.any()
