"""Streams inside functions that Numba compiles: the bits of `step` and `steps`, and clear errors."""

import copy
import subprocess
import sys
import textwrap

import numba
import numpy as np
import pytest
from helpers import DTYPES, GATES, assert_same_bits, kind, make_arguments
from numba.core.errors import TypingError

import rnnkernels
from rnnkernels.nopython import advance, reset


@numba.njit
def run_steps(stream, x, h):
    for t in range(x.shape[1]):
        step, out = np.ascontiguousarray(x[:, t]), np.ascontiguousarray(h[:, t])
        advance(stream, step, out)
        h[:, t] = out


@numba.njit
def run_block(stream, x, h):
    advance(stream, x, h)


@numba.njit
def run_anew(stream, x, h):
    advance(stream, x, h)
    reset(stream)
    advance(stream, x, h)


@numba.njit
def run_closed_loop(stream, y, steps):
    for _ in range(steps):
        advance(stream, y, y)


def open_stream(rng, cell, dtype, sizes=(3, 7, 5, 19)):
    x, h0, *weights = make_arguments(rng, GATES[cell], *sizes, dtype)
    return x, kind(rnnkernels, cell, "Stream")(*weights, h0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", GATES)
def test_advance__has_the_bits_of_the_stream(rng, cell, dtype):
    x, stream = open_stream(rng, cell, dtype)
    other = copy.deepcopy(stream)
    want = other.steps(x)
    h = np.zeros(want.shape, dtype)
    run_steps(stream.nopython(), x[:, :3].copy(), h[:, :3])
    run_block(stream.nopython(), x[:, 3:].copy(), rest := h[:, 3:].copy())
    assert_same_bits(np.concatenate([h[:, :3], rest], axis=1), want)
    assert_same_bits(stream.h, other.h)  # it is the same stream
    assert_same_bits(stream.step(x[:, 0]), other.step(x[:, 0]))


@pytest.mark.parametrize("cell", GATES)
def test_reset__sets_all_states_to_zero(rng, cell):
    x, stream = open_stream(rng, cell, np.float32)
    h = np.zeros((3, 7, 19), np.float32)
    run_anew(stream.nopython(), x, h)
    stream.reset()
    assert_same_bits(h, stream.steps(x))


def test_closed_loop__of_a_stack_never_returns_to_python(rng):
    layer = rnnkernels.GRU.create(4, 4, num_layers=3, rng=rng)
    stream, other = layer.stream(), layer.stream()
    y, want = np.ones(4, np.float32), np.ones((1, 4), np.float32)
    run_closed_loop(stream.nopython(), y, 50)
    for _ in range(50):
        other.step(want, want)
    assert_same_bits(y, want[0])
    reset(stream.nopython())
    assert not stream.h.any()


def test_advance__works_from_python(rng):
    x, stream = open_stream(rng, "lstm", np.float64)
    h, want = np.zeros((3, 7, 19)), copy.deepcopy(stream).steps(x)
    advance(stream.nopython(), x, h)
    assert_same_bits(h, want)


@pytest.mark.parametrize(
    ("x", "h", "message"),
    [
        (np.zeros((3, 5)), np.zeros((3, 19), np.float32), "`x` must be an array of float32"),
        (np.zeros((5, 3), np.float32).T, np.zeros((3, 19), np.float32), "`x` must be C-contiguous"),
        (np.zeros((3, 5), np.float32), np.zeros((3, 1, 19), np.float32), "`h` must have axes as many as `x` has"),
    ],
)
def test_advance__names_what_is_wrong_when_it_is_compiled(rng, x, h, message):
    _, stream = open_stream(rng, "lstm", np.float32)
    with pytest.raises(TypingError, match=message):
        run_block(stream.nopython(), x, h)
    with pytest.raises(TypingError, match="`stream` must be what `nopython` of a stream returns"):
        run_block((1, 2), x, h)
    h = np.zeros((3, 19), np.float32)
    h.setflags(write=False)
    with pytest.raises(TypingError, match="`h` must be writable"):
        run_block(stream.nopython(), np.zeros((3, 5), np.float32), h)


@pytest.mark.parametrize(
    ("x_shape", "h_shape"), [((3, 4), (3, 19)), ((2, 5), (3, 19)), ((3, 5), (2, 19)), ((3, 5), (3, 20)), ((5,), (19,))]
)
def test_advance__refuses_what_does_not_fit(rng, x_shape, h_shape):
    _, stream = open_stream(rng, "gru", np.float32)
    before = stream.h
    with pytest.raises(ValueError, match="`x` and `h` must have the shapes"):
        run_block(stream.nopython(), np.zeros(x_shape, np.float32), np.zeros(h_shape, np.float32))
    with pytest.raises(ValueError, match="`x` and `h` must have the shapes"):
        run_block(stream.nopython(), np.zeros((3, 2, 5), np.float32), np.zeros((3, 3, 19), np.float32))
    assert_same_bits(stream.h, before)


@pytest.mark.parametrize("name", ["weights", "memory"])
def test_advance__refuses_a_stream_that_was_changed(rng, name):
    _, stream = open_stream(rng, "lstm", np.float32)
    changed = stream.nopython()._replace(**{name: np.zeros(8, np.float32)})
    with pytest.raises(ValueError, match="`stream` must be what `nopython` of a stream returned, unchanged"):
        run_block(changed, np.zeros((3, 5), np.float32), np.zeros((3, 19), np.float32))


def test_cached_caller__finds_the_kernels_in_the_next_process(tmp_path):
    """Machine code of the user on disk calls routines of ours by name: they are there before it is loaded."""
    (tmp_path / "user.py").write_text(
        textwrap.dedent(
            """
            import numba, numpy as np, rnnkernels
            from rnnkernels.nopython import advance

            @numba.njit(cache=True)
            def loop(stream, y, steps):
                for _ in range(steps):
                    advance(stream, y, y)

            stream = rnnkernels.LSTM.create(9, 9, rng=np.random.default_rng(0)).stream()
            y = np.ones(9, np.float32)
            loop(stream.nopython(), y, 100)
            print(sum(loop.stats.cache_hits.values()), y.tobytes().hex())
            """
        )
    )
    runs = [
        subprocess.run(
            [sys.executable, "user.py"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [hits for hits, _ in runs] == ["0", "1"]
    assert runs[0][1] == runs[1][1]
