"""Sequences of different length, in reverse, that begin anew, and of which only the last state is wanted."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import (
    DTYPES,
    GATES,
    assert_all_close,
    assert_close,
    assert_same_bits,
    exact,
    function,
    kind,
    make_arguments,
)

import rnnkernels
from rnnkernels import _recurrent, _sequence, _spans, reference
from rnnkernels.kernels.cell import cells

SIZES = [(1, 1, 1, 1), (5, 7, 3, 9), (13, 30, 9, 41), (40, 12, 5, 17), (3, 300, 4, 6)]


def functions(cell):
    return function(rnnkernels, cell, "forward"), function(rnnkernels, cell, "backward")


def states_of(rng, cell, N, H, dtype):
    """Initial states beside h0, and a gradient of each last state."""
    names = cells[cell].states
    others = {f"{name}0": rng.standard_normal((N, H)).astype(dtype) for name in names[1:]}
    return others, tuple(rng.standard_normal((N, H)).astype(dtype) for _ in names)


def assert_agrees(cell, args, others, dh, dstate, dtype, lengths=None, **options):
    """Compare everything with the reference; and inference, and the last states alone, bit by bit with that."""
    forward, backward = functions(cell)
    result_of, back = function(reference, cell, "forward"), function(reference, cell, "backward")
    names = dict(zip(others, exact(others.values()), strict=True))
    expected = result_of(*exact(args), **names, lengths=lengths, **options)
    wanted = back(*exact([dh]), expected.cache, dstate=tuple(exact(dstate)))
    x, dh = args[0].copy(), dh.copy()
    if lengths is not None:
        padding = np.arange(x.shape[1]) >= np.asarray(lengths)[:, np.newaxis]
        x[padding] = dh[padding] = np.nan
    result = forward(x, *args[1:], **others, lengths=lengths, **options)
    assert_close(result.h, expected.h, dtype)
    assert_all_close(result.state, expected.state, dtype)
    gradients = backward(dh, result.cache, dstate=dstate)
    assert_all_close(gradients, wanted, dtype)
    assert vars(gradients).keys() >= {f"d{name}" for name in others}
    for name, gradient in vars(gradients).items():
        assert_close(gradient, getattr(wanted, name), dtype)
    for others_too in ({"keep_cache": False}, {"outputs": "last"}):
        again = forward(x, *args[1:], **others, lengths=lengths, **options, **others_too)
        assert_same_bits(again.h, result.state.h if "outputs" in others_too else result.h)
        for got, want in zip(again.state, result.state, strict=True):
            assert_same_bits(got, want)
    only_last = np.ones_like(result.state.h)
    dx, *_ = backward(only_last, again.cache)
    assert_close(dx, back(only_last.astype(np.longdouble), expected.cache).dx, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cell", GATES)
def test_lengths__agree_with_sequences_one_by_one(rng, cell, sizes, reverse, dtype):
    N, T, _, H = sizes
    args = make_arguments(rng, GATES[cell], *sizes, dtype)
    others, dstate = states_of(rng, cell, N, H, dtype)
    dh = rng.standard_normal((N, T, H)).astype(dtype)
    lengths = rng.integers(0, T + 1, N)
    lengths[rng.integers(N)] = T
    assert_agrees(cell, args, others, dh, dstate, dtype, lengths, reverse=reverse)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("sizes", SIZES[1:4])
@pytest.mark.parametrize("cell", GATES)
def test_resets__agree_with_stretches_one_by_one(rng, cell, sizes, with_lengths, reverse, dtype):
    N, T, _, H = sizes
    args = make_arguments(rng, GATES[cell], *sizes, dtype)
    others, dstate = states_of(rng, cell, N, H, dtype)
    dh = rng.standard_normal((N, T, H)).astype(dtype)
    lengths = rng.integers(0, T + 1, N) if with_lengths else None
    resets = rng.random((N, T)) < 0.15
    if with_lengths and not lengths.any():
        lengths[0] = 1
    assert_agrees(cell, args, others, dh, dstate, dtype, lengths, reverse=reverse, resets=resets)


@pytest.mark.parametrize("cell", GATES)
def test_spans__give_the_same_bits_for_any_order_batch_and_threads(rng, cell):
    forward, backward = functions(cell)
    N, T, D, H = 23, 40, 7, 33
    x, h0, *weights = make_arguments(rng, GATES[cell], N, T, D, H, np.float32)
    lengths, resets = rng.integers(0, T + 1, N), rng.random((N, T)) < 0.05
    dh, dlast = rng.standard_normal((N, T, H), np.float32), rng.standard_normal((N, H), np.float32)

    def run(rows, **options):
        result = forward(x[rows], h0[rows], *weights, lengths=lengths[rows], resets=resets[rows], **options)
        gradients = backward(dh[rows], result.cache, dstate=(dlast[rows], *[None] * (len(result.state) - 1)))
        return [result.h, result.state.h, gradients.dx, gradients.dh0], gradients[2:]

    whole, sums = run(np.arange(N), num_threads=1)
    for threads in (2, 3):
        again, sums_again = run(np.arange(N), num_threads=threads)
        for got, want in zip([*again, *sums_again], [*whole, *sums], strict=True):
            assert_same_bits(got, want)
    for rows in (rng.permutation(N), np.array([3]), np.arange(5, 16)):
        for got, want in zip(run(rows)[0], whole, strict=True):
            assert_same_bits(got, want[rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
def test_lengths__all_whole_have_the_bits_of_a_plain_call(rng, cell, dtype):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], 5, 70, 6, 21, dtype)
    h, cache = forward(*args)
    dh = rng.standard_normal(h.shape).astype(dtype)
    with_lengths = forward(*args, lengths=[70] * 5)
    assert_same_bits(with_lengths.h, h)
    for got, want in zip(backward(dh, with_lengths.cache), backward(dh, cache), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
def test_resets__have_the_bits_of_a_stream_that_begins_anew(rng, cell, dtype):
    forward, _ = functions(cell)
    x, h0, *weights = make_arguments(rng, GATES[cell], 4, 30, 6, 21, dtype)
    resets = rng.random((4, 30)) < 0.2
    result = forward(x, h0, *weights, resets=resets)
    stream = kind(rnnkernels, cell, "Stream")(*weights, h0)
    for t in range(30):
        stream.reset(rows=resets[:, t])
        assert_same_bits(stream.step(np.ascontiguousarray(x[:, t])), result.h[:, t])


def stretches_by_numpy(N, T, lengths, resets, reverse):
    """Row of the first step, steps, sequence, and whether it begins or ends the sequence, for each span in order."""
    found = []
    for n, length in enumerate(lengths):
        rows = np.arange(n * T, n * T + length)[:: -1 if reverse else 1]
        new = resets.reshape(-1)[rows] if resets is not None else np.zeros(length, bool)
        begins = [0, *[t for t in range(1, length) if new[t]]]
        for begin, end in zip(begins, [*begins[1:], length], strict=True):
            first = rows[begin] if length else n * T - reverse
            found.append((first, end - begin, n, begin == 0 and not new[:1].any(), end == length))
    return np.array(sorted(found, key=lambda span: -span[1]), np.int64).T


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("share", [None, 0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize(("N", "T"), [(1, 1), (4, 8), (7, 30), (40, 3)])
def test_spans__are_those_that_numpy_finds(rng, N, T, share, reverse):
    resets = None if share is None else rng.random((N, T)) < share
    for lengths in (rng.integers(0, T + 1, N), np.sort(rng.integers(0, T + 1, N))[::-1], np.zeros(N, int), None):
        spans = _spans.find_spans(N, T, lengths, reverse, resets)
        want = stretches_by_numpy(N, T, [T] * N if lengths is None else lengths, resets, reverse)
        as_they_are = want.shape[1] == N and (want[2] == np.arange(N)).all() and want[3].all()
        if spans is None:
            assert as_they_are
            assert (want[1] == T).all()
            assert not reverse
            continue
        np.testing.assert_array_equal(spans.table, want)
        assert spans.onward == (-1 if reverse else 1)
        assert (spans.longest, spans.shortest, spans.steps) == (want[1, 0], want[1, -1], want[1].sum())
        assert spans.in_order == as_they_are
        assert not spans.table.flags.writeable


def test_spans__take_lengths_and_resets_in_any_layout(rng):
    lengths, resets = rng.integers(0, 9, 6), rng.random((6, 8)) < 0.2
    want = _spans.find_spans(6, 8, lengths, False, resets).table
    wide = np.repeat(lengths, 2).astype(np.int64)[::2]
    for given in (lengths.tolist(), lengths.astype(np.uint8), lengths.astype(">i8"), wide):
        table = _spans.find_spans(6, 8, given, False, np.asfortranarray(resets)).table
        np.testing.assert_array_equal(table, want)


def test_lengths__that_are_whole_make_a_plain_call(rng):
    args = make_arguments(rng, 4, 3, 5, 4, 6, np.float32)
    assert rnnkernels.lstm_forward(*args, lengths=[5] * 3).cache.spans is None
    assert rnnkernels.lstm_forward(*args, resets=np.zeros((3, 5), bool)).cache.spans is None
    backward = rnnkernels.lstm_forward(*args, lengths=[5] * 3, reverse=True).cache.spans
    assert backward is rnnkernels.lstm_forward(*args, reverse=True).cache.spans


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("options", ["lengths", "sorted", "resets", "both", "reverse"])
@pytest.mark.parametrize("cell", GATES)
def test_small_calls_with_spans__have_the_bits_of_large_ones(rng, monkeypatch, cell, options, reverse, dtype):
    forward, backward = functions(cell)
    N, T, H = 5, 12, 9
    args = make_arguments(rng, GATES[cell], N, T, 6, H, dtype)
    others, _ = states_of(rng, cell, N, H, dtype)
    lengths, resets = np.array([3, 12, 0, 7, 3]), rng.random((N, T)) < 0.2
    options = {
        "lengths": {"lengths": lengths},
        "sorted": {"lengths": np.sort(lengths)[::-1].copy()},
        "resets": {"resets": resets},
        "both": {"lengths": lengths, "resets": resets},
        "reverse": {},
    }[options]
    options = {**others, **options, "reverse": reverse}
    dh = rng.standard_normal((N, T, H)).astype(dtype)

    def run(**more):
        found = []
        for outputs in ("all", "last"):
            for keep_cache in (True, False):
                result = forward(*args, **options, outputs=outputs, keep_cache=keep_cache, **more)
                found += [result.h, *result.state]
                if keep_cache:
                    assert result.cache.h0 is args[1]
                    gradients = backward(dh if outputs == "all" else dh[:, 0].copy(), result.cache, **more)
                    found += [*gradients, *vars(gradients).values()]
        return found

    large = run(num_threads=1)
    run()  # what is needed of calls like these is kept
    for name in ("run_forward", "run_backward"):
        monkeypatch.setattr(_sequence, name, None)
    for got, want in zip(run(), large, strict=True):
        assert_same_bits(got, want)


def test_small_calls_with_spans__that_are_kept_are_not_too_many(rng):
    args = make_arguments(rng, 1, 2, 3 * _recurrent.MOST_OF_SPANS, 3, 2, np.float32)
    for length in range(1, args[0].shape[1]):
        want = rnnkernels.rnn_forward(*args, lengths=[length, 1], num_threads=1)
        assert_same_bits(rnnkernels.rnn_forward(*args, lengths=[length, 1]).h, want.h)
    kept = [call.of_spans for key, call in rnnkernels.rnn.FAMILY.small.items() if key[3] == args[0].shape]
    assert kept
    assert all(len(of_spans) <= _recurrent.MOST_OF_SPANS for of_spans in kept)


@pytest.mark.parametrize("cell", GATES)
def test_cache_of_spans__survives_a_pickle_and_shows_steps_in_the_order_of_x(rng, cell):
    forward, backward = functions(cell)
    args = make_arguments(rng, GATES[cell], 4, 9, 6, 21, np.float64)
    result = forward(*args, lengths=[3, 9, 0, 5], reverse=True)
    dh = rng.standard_normal((4, 9, 21))
    again = pickle.loads(pickle.dumps(result.cache))
    for got, want in zip(backward(dh, again), backward(dh, result.cache), strict=True):
        assert_same_bits(got, want)
    if cells[cell].tracked == "h":
        assert_same_bits(result.cache.h, result.h)


@pytest.mark.parametrize(
    "spoil", ["places", "onward", "sequences", "order", "in_order", "longest", "dtype", "shape", "longer"]
)
def test_cache_of_spans__that_was_changed_is_refused(rng, spoil):
    args = make_arguments(rng, 4, 3, 5, 4, 6, np.float32)
    result = rnnkernels.lstm_forward(*args, lengths=[2, 5, 4])
    spans = result.cache.spans
    changed = {
        "places": {"table": spans.table + np.array([[100], [0], [0], [0], [0]])},
        "onward": {"onward": 2},
        "sequences": {"table": spans.table + np.array([[0], [0], [1], [0], [0]])},
        "order": {"table": np.ascontiguousarray(spans.table[:, ::-1])},
        "in_order": {"table": spans.table[:, :2].copy(), "steps": 9, "in_order": True},
        "longest": {"longest": 6},
        "dtype": {"table": spans.table.astype(np.int32)},
        "shape": {"shape": (3, 4)},
        "longer": {"table": spans.table + np.array([[0], [1], [0], [0], [0]])},
    }[spoil]
    result.cache.spans = spans._replace(**changed)
    with pytest.raises(ValueError, match="`cache` must be as lstm_forward left it"):
        rnnkernels.lstm_backward(np.ones_like(result.h), result.cache)


@pytest.mark.parametrize("options", [{}, {"lengths": [300, 7, 0, 151]}, {"reverse": True}, {"resets": 0.02}])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
def test_checkpoints__give_the_same_bits_from_less_memory(rng, cell, dtype, options):
    forward, backward = functions(cell)
    N, T, H = 4, 300, 21
    args = make_arguments(rng, GATES[cell], N, T, 3, H, dtype)
    others, dstate = states_of(rng, cell, N, H, dtype)
    dh = rng.standard_normal((N, T, H)).astype(dtype)
    options = {name: rng.random((N, T)) < value if name == "resets" else value for name, value in options.items()}
    plain = forward(*args, **others, **options)
    want = backward(dh, plain.cache, dstate=dstate)
    budget = sum(kept.nbytes for kept in plain.cache[4:]) // 2
    for little in ({"checkpoint_every": 100}, {"memory_budget": budget}, {"checkpoint_every": 1}):
        result = forward(*args, **others, **options, **little)
        assert_same_bits(result.h, plain.h)
        for got, state in zip(result.state, plain.state, strict=True):
            assert_same_bits(got, state)
        if "resets" not in options:
            assert len(result.cache.checkpoints.states) > 1
        cache = pickle.loads(pickle.dumps(result.cache))
        for threads in (1, 2):
            gradients = backward(dh, cache, dstate=dstate, num_threads=threads)
            for got, gradient in zip(
                [*gradients, *vars(gradients).values()], [*want, *vars(want).values()], strict=True
            ):
                assert_same_bits(got, gradient)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": [1, 2]}, ValueError, r"`lengths` must have shape \(N,\) = \(3,\) to match `x`; got \(2,\)"),
        ({"lengths": [1, 6, 2]}, ValueError, r"`lengths\[1\]` = 6 is outside 0 <= length <= T = 5"),
        ({"lengths": [1, -1, 2]}, ValueError, r"`lengths\[1\]` = -1 is outside"),
        ({"lengths": np.array([1, 2, 2**63 + 1], np.uint64)}, ValueError, r"`lengths\[2\]` = 9223372036854775809 is"),
        ({"lengths": [1.0, 2.0, 3.0]}, TypeError, "`lengths` must be of integers"),
        ({"resets": np.zeros((3, 5))}, TypeError, "`resets` must be of booleans.*pass `resets != 0`"),
        ({"resets": np.zeros((3, 4), bool)}, ValueError, r"`resets` must have shape \(N, T\) = \(3, 5\)"),
        ({"outputs": "first"}, ValueError, "`outputs` must be one of 'all', 'last'; got 'first'"),
        ({"checkpoint_every": 0}, ValueError, "`checkpoint_every` must be at least 1"),
        ({"memory_budget": 1}, ValueError, "`memory_budget` = 1 bytes is too little: .* takes [0-9]+ at least"),
        ({"checkpoint_every": 2, "memory_budget": 100}, ValueError, "exclude one another"),
        ({"checkpoint_every": 2, "keep_cache": False}, ValueError, "there is none with keep_cache=False"),
    ],
)
def test_options__that_do_not_fit_are_refused(rng, options, error, message):
    args = make_arguments(rng, 4, 3, 5, 4, 6, np.float32)
    with pytest.raises(error, match=message):
        rnnkernels.lstm_forward(*args, **options)


def test_cache_with_checkpoints__has_no_gates_and_says_so(rng):
    _, cache = rnnkernels.lstm_forward(*make_arguments(rng, 4, 1, 2000, 4, 6, np.float32), checkpoint_every=500)
    with pytest.raises(ValueError, match="without `checkpoint_every` and `memory_budget`"):
        _ = cache.i
    assert "checkpoints" in repr(cache)


MEASURE = """
import tracemalloc
import numpy as np
import rnnkernels

args = [np.zeros(shape, np.float32) for shape in ((1, 100_000, 1), (1, 16), (1, 64), (16, 64), (64,))]
for run in range(2):
    tracemalloc.start()
    h, cache = rnnkernels.lstm_forward(*args, memory_budget=1_000_000)
    gradients = rnnkernels.lstm_backward(h, cache)
    peak = tracemalloc.get_traced_memory()[1] - h.nbytes - sum(gradient.nbytes for gradient in gradients)
    tracemalloc.stop()
print(peak)
"""


@pytest.mark.slow
def test_memory_budget__bounds_what_is_kept_at_any_time():
    peak = int(subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True).stdout)
    assert peak < 1_000_000 + 2_000_000  # and scratch; the whole cache would take 32 MB


@pytest.mark.parametrize("kind_of", ["LSTM", "GRU", "RNN"])
def test_stack__takes_lengths_resets_and_checkpoints(rng, kind_of):
    stack = getattr(rnnkernels, kind_of).create(3, 9, num_layers=2, bidirectional=True, dtype=np.float64, rng=rng)
    x, lengths = rng.standard_normal((4, 200, 3)), [200, 0, 77, 13]
    result = stack.forward(x, lengths=lengths, checkpoint_every=50)
    dh = rng.standard_normal(result.h.shape)
    dx, gradients = stack.backward(dh, result.cache)
    sums = {name: np.zeros_like(value) for name, value in gradients.items()}
    for n in (0, 2, 3):
        alone = stack.forward(x[n : n + 1, : lengths[n]])
        assert_same_bits(alone.h[0], result.h[n, : lengths[n]])
        dx_alone, more = stack.backward(dh[n : n + 1, : lengths[n]], alone.cache)
        assert_close(dx[n, : lengths[n]], dx_alone[0], np.float64)
        sums = {name: sums[name] + more[name] for name in sums}
    for name, value in gradients.items():
        assert_close(value, sums[name], np.float64)
    last = stack.forward(x, lengths=lengths, outputs="last")
    assert_same_bits(last.h, np.concatenate([result.state.h[2], result.state.h[3]], axis=1))
    only = rng.standard_normal(last.h.shape)
    spread = tuple(np.zeros_like(part) for part in last.state)
    spread[0][2], spread[0][3] = only[:, :9], only[:, 9:]
    want = stack.backward(None, result.cache, dstate=type(last.state)(*spread))
    assert_close(stack.backward(only, last.cache).dx, want.dx, np.float64)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_cache__takes_memory_in_proportion_to_the_steps(rng, cell):
    """One episode may be long, and others short."""
    T, layer = 4000, getattr(rnnkernels, cell.upper()).create(3, 8, rng=rng)
    x, resets = np.ones((1, T, 3), np.float32), np.zeros((1, T), bool)
    resets[:, T // 2 :: 5] = True
    plain = layer.forward(x).cache
    cache = layer.forward(x, resets=resets).cache
    assert sum(map(np.size, cache)) < 1.3 * sum(map(np.size, plain))
    short = layer.forward(np.ones((2, T, 3), np.float32), lengths=[T, 7]).cache
    assert short.tape.size + short.track.size < 1.1 * (plain.tape.size + plain.track.size)
    tracked = cache.c if cell == "lstm" else cache.h
    want = layer.forward(x[:, T // 2 : T // 2 + 5]).cache
    np.testing.assert_array_equal(tracked[:, T // 2 : T // 2 + 5], want.c if cell == "lstm" else want.h)


def test_cache__has_no_memory_of_others_in_its_pickle(rng):
    W = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 80), (20, 80), (80,))]
    x = rng.standard_normal((4, 50, 3)).astype(np.float32)
    pickles = set()
    for value in (0, 0x7FA00000, 1):
        junk = [np.full((50 + k, 4, width), value, np.uint32) for width in (24, 32, 80, 96, 128) for k in (0, 1)]
        del junk
        _, cache = rnnkernels.lstm_forward(x, np.zeros((4, 20), np.float32), *W, lengths=[50, 3, 2, 1])
        again = pickle.loads(pickle.dumps(cache))
        pickles.add((again.tape.tobytes(), again.track.tobytes()))
        rnnkernels.lstm_backward(np.ones((4, 50, 20)), cache)
    assert len(pickles) == 1


def test_budget__of_a_stack_is_told_as_it_was_given(rng):
    stack = rnnkernels.LSTM.create(3, 4, num_layers=2, rng=rng)
    x = np.ones((4, 500, 3), np.float32)
    for options in ({}, {"lengths": [500, 20, 3, 0]}, {"resets": np.arange(2000).reshape(4, 500) % 7 == 0}):
        with pytest.raises(ValueError, match="`memory_budget` = 1000 bytes is too little") as told:
            stack.forward(x, memory_budget=1000, **options)
        least = int(re.search("takes ([0-9]+) at least", str(told.value))[1])
        want = stack.forward(x, **options)
        result = stack.forward(x, memory_budget=least, **options)
        assert_same_bits(result.h, want.h)
        assert_same_bits(stack.backward(x[..., :1].repeat(4, 2), result.cache)[0],
                         stack.backward(x[..., :1].repeat(4, 2), want.cache)[0])  # fmt: skip
        with pytest.raises(ValueError, match=f"`memory_budget` = {least - 1} bytes is too little"):
            stack.forward(x, memory_budget=least - 1, **options)
    with pytest.raises(ValueError, match="`memory_budget` must be at least 1; got 0"):
        stack.forward(x, memory_budget=0)
