"""Bad input gives an error that names the argument and the cure, before anything runs."""

import re

import numpy as np
import pytest
from helpers import GATES, function, make_arguments

import rnnkernels
from rnnkernels.kernels.cell import cells

SEQUENCES = {cell: (function(rnnkernels, cell, "forward"), gates) for cell, gates in GATES.items()}
NAMES = ("x", "h0", "Wx", "Wh", "b")


@pytest.mark.parametrize("cell", SEQUENCES)
@pytest.mark.parametrize("dtype", [np.float16, np.complex64, np.bool_, np.longdouble, object, "U3", "M8[s]"])
@pytest.mark.parametrize("position", range(5))
def test_wrong_dtype__is_named(rng, cell, dtype, position):
    forward, gates = SEQUENCES[cell]
    args = make_arguments(rng, gates, 2, 3, 4, 5, np.float64)
    if np.dtype(dtype) == np.float64:
        pytest.skip("longdouble is float64 here")
    args[position] = np.zeros(args[position].shape, dtype)
    with pytest.raises(
        TypeError,
        match=rf"`{NAMES[position]}` must be of float32 or float64.*got {re.escape(str(args[position].dtype))}",
    ):
        forward(*args)


def test_ragged_lists__are_named():
    with pytest.raises(ValueError, match="`x` cannot be made an array"):
        rnnkernels.sigmoid([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (2, 3), r"`x` must have shape \(N, T, D\), 3 axes; got shape \(2, 3\)"),
        (1, (2,), r"`h0` must have shape \(N, H\) = \(2, 5\) to match `x`; got \(2,\)\. It may also be .*for all rows"),
        (1, (3, 5), r"`h0` must have shape \(N, H\) = \(2, 5\) to match `x`; got \(3, 5\)"),
        (2, (3, 20), r"`Wx` must have shape \(D, 4H\) = \(4, 20\) to match `x` and `h0`; got \(3, 20\)"),
        (2, (20, 4), r"`Wx` must have shape .*; got \(20, 4\)\..*order i, f, o, g.*transpose of a PyTorch weight"),
        (3, (20, 5), r"`Wh` must have shape \(H, 4H\) = \(5, 20\) .*; got \(20, 5\)\..*transpose of a PyTorch weight"),
        (3, (5, 5), r"`Wh` must have shape \(H, 4H\) = \(5, 20\)"),
        (4, (5,), r"`b` must have shape \(4H,\) = \(20,\) to match `h0`; got \(5,\)"),
        (4, (1, 20), r"`b` must have shape \(4H,\)"),
    ],
)
def test_lstm_forward__names_the_wrong_shape(rng, position, shape, message):
    args = make_arguments(rng, 4, 2, 3, 4, 5, np.float32)
    copies = [a.copy() for a in args]
    args[position] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=message):
        rnnkernels.lstm_forward(*args)
    for i, copy in enumerate(copies):
        if i != position:
            np.testing.assert_array_equal(args[i], copy)


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (2, (5, 4), r"`Wx` must have shape \(D, H\) = \(4, 5\) .*; got \(5, 4\)\. This is its transpose: pass `Wx.T`"),
        (3, (5, 6), r"`Wh` must have shape \(H, H\) = \(5, 5\)"),
        (4, (20,), r"`b` must have shape \(H,\) = \(5,\)"),
    ],
)
def test_rnn_forward__names_the_wrong_shape(rng, position, shape, message):
    args = make_arguments(rng, 1, 2, 3, 4, 5, np.float32)
    args[position] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=message):
        rnnkernels.rnn_forward(*args)


def test_steps__name_the_wrong_shape(rng):
    x, h, *weights = make_arguments(rng, 4, 2, 1, 4, 5, np.float64)
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, D\), 2 axes"):
        rnnkernels.lstm_step_forward(x, h, h, *weights)
    with pytest.raises(ValueError, match=r"`prev_h` must have shape \(N, H\) = \(2, 5\) to match `x`; got \(3, 5\)"):
        rnnkernels.lstm_step_forward(x[:, 0], np.ones((3, 5)), h, *weights)
    with pytest.raises(ValueError, match=r"`prev_c` must have shape \(N, H\) = \(2, 5\) to match `x` and `prev_h`"):
        rnnkernels.lstm_step_forward(x[:, 0], h, h[:, :4], *weights)
    with pytest.raises(ValueError, match=r"`Wx` must have shape \(D, H\)"):
        rnnkernels.rnn_step_forward(x[:, 0], h, *weights)


def backward_calls():
    rng = np.random.default_rng(0)
    lstm = make_arguments(rng, 4, 2, 3, 4, 5, np.float32)
    rnn = make_arguments(rng, 1, 2, 3, 4, 5, np.float32)
    step, state = np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)
    return {
        "lstm_backward": (rnnkernels.lstm_forward(*lstm)[-1], ("dh",), (2, 3, 5)),
        "rnn_backward": (rnnkernels.rnn_forward(*rnn)[-1], ("dh",), (2, 3, 5)),
        "lstm_step_backward": (
            rnnkernels.lstm_step_forward(step, state, state, *lstm[2:])[-1], ("dnext_h", "dnext_c"), (2, 5)
        ),
        "rnn_step_backward": (rnnkernels.rnn_step_forward(step, state, *rnn[2:])[-1], ("dnext_h",), (2, 5)),
        "temporal_affine_backward": (
            rnnkernels.temporal_affine_forward(lstm[0], np.ones((4, 5)), np.ones(5))[-1], ("dout",), (2, 3, 5)
        ),
        "word_embedding_backward": (
            rnnkernels.word_embedding_forward(np.zeros((2, 3), int), np.ones((4, 5)))[-1], ("dout",), (2, 3, 5)
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", backward_calls())
def test_backward__names_wrong_gradients_and_caches(name):
    cache, gradients, shape = backward_calls()[name]
    function, forward = getattr(rnnkernels, name), name.replace("backward", "forward")
    right = [np.zeros(shape)] * len(gradients)
    function(*right, cache)
    for position, gradient in enumerate(gradients):
        wrong = list(right)
        wrong[position] = np.zeros((*shape[:-1], 6))
        with pytest.raises(ValueError, match=rf"`{gradient}` must have shape .* to match the cache; got"):
            function(*wrong, cache)
        wrong[position] = np.zeros(shape, complex)
        with pytest.raises(TypeError, match=rf"`{gradient}` must be of float32 or float64"):
            function(*wrong, cache)
    with pytest.raises(TypeError, match=rf"`cache` is None: call {forward} with keep_cache=True"):
        function(*right, None)
    with pytest.raises(TypeError, match=rf"`cache` must be the .*Cache that {forward} returned; got tuple"):
        function(*right, (1, 2))


def test_caches__of_other_functions_are_told_apart():
    calls = backward_calls()
    with pytest.raises(TypeError, match="`cache` must be the LSTMCache that lstm_forward returned; got RNNCache"):
        rnnkernels.lstm_backward(np.zeros((2, 3, 5)), calls["rnn_backward"][0])


@pytest.mark.parametrize("cell", SEQUENCES)
@pytest.mark.parametrize("steps", [0, 2])
def test_step_backward__rejects_the_cache_of_a_sequence(rng, cell, steps):
    forward, gates = SEQUENCES[cell]
    _, cache = forward(*make_arguments(rng, gates, 2, steps, 4, 5, np.float32))
    gradients = [np.zeros((2, 5), np.float32)] * (2 if cell == "lstm" else 1)
    with pytest.raises((TypeError, ValueError), match=f"`cache` .*{cells[cell].name}_step_forward"):
        function(rnnkernels, cell, "step_backward")(*gradients, cache)


@pytest.mark.parametrize("index", [-1, 4, 10**15, -(10**15)])
def test_word_embedding_forward__names_the_place_of_an_index_outside(index):
    words = np.zeros((2, 3), int)
    words[1, 2] = index
    with pytest.raises(IndexError, match=rf"`x`\[1, 2\] = {index} is outside 0 <= index < V = 4"):
        rnnkernels.word_embedding_forward(words, np.ones((4, 2)))


def test_word_embedding_forward__takes_no_index_that_wraps_around():
    with pytest.raises(IndexError, match=r"`x`\[0, 1\] = 18446744073709551615 is beyond"):
        rnnkernels.word_embedding_forward(np.array([[0, 2**64 - 1]], np.uint64), np.ones((4, 2)))


def test_word_embedding_forward__of_an_empty_vocabulary_has_no_words():
    with pytest.raises(IndexError, match="V = 0"):
        rnnkernels.word_embedding_forward([[0]], np.ones((0, 2)))
    assert rnnkernels.word_embedding_forward(np.zeros((0, 3), int), np.ones((0, 2)))[0].shape == (0, 3, 2)


def test_word_embedding_backward__checks_indices_that_were_changed():
    words = np.zeros((1, 2), np.intp)
    _, cache = rnnkernels.word_embedding_forward(words, np.ones((4, 2)))
    words[0, 1] = 1000
    with pytest.raises(IndexError, match=r"`cache.x`\[0, 1\] = 1000 is outside"):
        rnnkernels.word_embedding_backward(np.ones((1, 2, 2)), cache)


@pytest.mark.parametrize("words", [np.zeros((1, 2)), np.zeros((1, 2), bool), np.array([["a", "b"]])])
def test_indices__must_be_integers(words):
    with pytest.raises(TypeError, match="`x` must be of integers"):
        rnnkernels.word_embedding_forward(words, np.ones((4, 2)))
    with pytest.raises(TypeError, match="`y` must be of integers"):
        rnnkernels.temporal_softmax_loss(np.zeros((1, 2, 3)), words, np.ones((1, 2)))


@pytest.mark.parametrize(
    ("x", "y", "mask", "error", "message"),
    [
        ((2, 3), (2, 3), (2, 3), ValueError, r"`x` must have shape \(N, T, V\), 3 axes"),
        ((2, 3, 4), (2, 2), (2, 3), ValueError, r"`y` must have shape \(N, T\) = \(2, 3\) to match `x`; got \(2, 2\)"),
        ((2, 3, 4), (2, 3), (3, 2), ValueError, r"`mask` must have shape \(N, T\) = \(2, 3\) to match `x`"),
    ],
)
def test_temporal_softmax_loss__names_the_wrong_shape(x, y, mask, error, message):
    with pytest.raises(error, match=message):
        rnnkernels.temporal_softmax_loss(np.zeros(x), np.zeros(y, int), np.ones(mask))


@pytest.mark.parametrize("weight", [True, 0.5, np.nan])
def test_temporal_softmax_loss__names_the_place_of_a_label_outside(weight):
    y = np.zeros((2, 3), int)
    y[1, 0] = 4
    with pytest.raises(IndexError, match=r"`y`\[1, 0\] = 4 is outside 0 <= index < V = 4"):
        rnnkernels.temporal_softmax_loss(np.zeros((2, 3, 4)), y, np.full((2, 3), weight))


def test_temporal_softmax_loss__takes_no_complex_mask():
    with pytest.raises(TypeError, match="`mask` must be of booleans or of real numbers"):
        rnnkernels.temporal_softmax_loss(np.zeros((1, 2, 3)), [[0, 0]], np.ones((1, 2), complex))


def test_temporal_affine_forward__names_the_wrong_shape():
    with pytest.raises(
        ValueError, match=r"`w` must have shape \(D, M\) = \(4, 5\) to match `x` and `b`; got \(5, 4\)\. This"
    ):
        rnnkernels.temporal_affine_forward(np.ones((2, 3, 4)), np.ones((5, 4)), np.ones(5))
    with pytest.raises(ValueError, match=r"`b` must have shape \(M,\), 1 axes"):
        rnnkernels.temporal_affine_forward(np.ones((2, 3, 4)), np.ones((4, 5)), np.ones((1, 5)))


@pytest.mark.parametrize(
    ("words", "place"),
    [([[2**63]], "[0, 0]"), ([[0, 2**64]], "[0, 1]"), ([[2**63, -1]], "[0, 0]"), ([[1], [-(2**70)]], "[1, 0]")],
)
def test_indices__that_no_integer_dtype_holds_are_named(words, place):
    with pytest.raises(IndexError, match=rf"`x`{re.escape(place)} = -?\d+ is beyond every array"):
        rnnkernels.word_embedding_forward(words, np.ones((4, 2)))
    with pytest.raises(IndexError, match=rf"`y`{re.escape(place)} = -?\d+ is beyond every array"):
        rnnkernels.temporal_softmax_loss(np.zeros((*np.shape(words), 3)), words, np.ones(np.shape(words)))


def test_none__is_named_with_a_cure(rng):
    x, w, b = np.ones((2, 3, 4)), np.ones((4, 5)), np.ones(5)
    y = np.zeros((2, 3), int)
    for call, name, cure in (
        (lambda: rnnkernels.temporal_affine_forward(None, w, b), "x", "It has no default"),
        (lambda: rnnkernels.temporal_affine_forward(x, w, None), "b", "A layer without bias takes zeros"),
        (lambda: rnnkernels.temporal_softmax_loss(x, y, None), "mask", "Where every step counts"),
        (lambda: rnnkernels.temporal_softmax_loss(x, None, y), "y", "It has no default"),
        (lambda: rnnkernels.sigmoid(None), "x", "It has no default"),
        (
            lambda: rnnkernels.rnn_forward(x, np.ones((2, 5)), w, np.ones((5, 5)), None),
            "b",
            "A layer without bias takes zeros",
        ),
    ):
        with pytest.raises(TypeError, match=rf"`{name}` must be an array; got None\. {cure}"):
            call()


def test_strings__are_named():
    words = np.array([["a", "b"]], np.dtypes.StringDType())
    with pytest.raises(TypeError, match=r"`x` must be of float32 or float64.*got StringDType"):
        rnnkernels.sigmoid(words)
    with pytest.raises(TypeError, match=r"`x` must be of integers.*got StringDType"):
        rnnkernels.word_embedding_forward(words, np.ones((4, 2)))
    with pytest.raises(TypeError, match=r"`mask` must be of booleans or of real numbers.*got StringDType"):
        rnnkernels.temporal_softmax_loss(np.zeros((1, 2, 3)), [[0, 0]], words)
