"""Programs in the ways people sample and train with such modules, where NumPy's rules fill in what is left out.

Each program is written against a module of layers, and has a careful twin that spells every array out: whole batches of
one float dtype, sums where rows shared something. The twin runs on `reference`; the program has to give the same.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import make_arguments

import rnnkernels
from rnnkernels import reference

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STATES = {"rnn": ("h0",), "lstm": ("h0", "c0"), "gru": ("h0",)}
N, T, D, H, V = 5, 8, 6, 7, 11
START = 1
PROGRAMS = []


@pytest.fixture(
    params=[
        reference,
        pytest.param(
            rnnkernels,
            marks=pytest.mark.skipif(not hasattr(rnnkernels, "LSTMState"), reason="rnnkernels has no states yet"),
        ),
    ],
    ids=["reference", "rnnkernels"],
)
def layers(request):
    return request.param


def program(function):
    PROGRAMS.append(function)
    return function


def make_model(cell, dtype):
    """Parameters, data and the functions of a cell, the same ones at each call."""
    rng = np.random.default_rng(231)
    x, first, Wx, Wh, b = make_arguments(rng, GATES[cell], N, T, D, H, dtype)
    W_embed, W_vocab = (rng.standard_normal(shape).astype(dtype) for shape in ((V, D), (H, V)))
    return SimpleNamespace(
        x=x,
        first=[first, (0.5 * first).astype(dtype)][: len(STATES[cell])],
        weights={"Wx": Wx, "Wh": Wh, "b": b},
        options={"bh": (0.5 * rng.standard_normal(3 * H)).astype(dtype)} if cell == "gru" else {},
        W_embed=W_embed,
        W_vocab=W_vocab,
        words=rng.integers(0, V, (N, T)),
        dh=rng.standard_normal((N, T, H)).astype(dtype),
    )


def functions(layers, cell):
    """Forward and backward over sequences, and the same for a step."""
    return [getattr(layers, f"{cell}{name}") for name in ("_forward", "_backward", "_step_forward", "_step_backward")]


def by_name(cell, states):
    return dict(zip(STATES[cell], states, strict=True))


def sample(layers, cell, model, words, x, states, length):
    """Draw the likeliest word at each step, from first inputs x, or words; return what came along the way."""
    step, trace = functions(layers, cell)[2], []
    for _ in range(length):
        if x is None:
            x, _ = layers.word_embedding_forward(words, model.W_embed)
        *states, _ = step(x, *states, **model.weights, **model.options)
        scores = np.dot(states[0], model.W_vocab)
        words, x = scores.argmax(axis=-1), None
        trace += [words, scores, *states]
    return trace


@program
def sample_one_word_per_row(layers, cell, model, careful):
    """The words of all rows are a vector, not a matrix of one column."""
    trace, states, words, step = [], model.first, np.full(N, START), functions(layers, cell)[2]
    for _ in range(4):
        if careful:
            x = layers.word_embedding_forward(words[:, None], model.W_embed)[0][:, 0]
        else:
            x, _ = layers.word_embedding_forward(words, model.W_embed)
        *states, _ = step(x, *states, **model.weights, **model.options)
        scores, _ = layers.temporal_affine_forward(states[0][:, None], model.W_vocab, np.zeros(V, model.x.dtype))
        words = scores[:, 0].argmax(axis=1)
        trace += [words, scores, *states]
    return trace


@program
def sample_from_one_start_vector_for_all_rows(layers, cell, model, careful):
    """The embedding of the start word is one vector, each row has a state of its own."""
    x = model.W_embed[START]
    return sample(layers, cell, model, None, np.tile(x, (N, 1)) if careful else x, model.first, 4)


@program
def sample_from_one_row_of_a_batch(layers, cell, model, careful):
    """The start vector keeps its axis of length one."""
    x, _ = layers.word_embedding_forward(np.array([[START]]), model.W_embed)
    return sample(layers, cell, model, None, np.tile(x[0], (N, 1)) if careful else x[0], model.first, 4)


@program
def sample_from_one_state_for_all_rows(layers, cell, model, careful):
    """Each row begins with a word of its own, all with one state."""
    states = [state[0] for state in model.first]
    if careful:
        states = [np.tile(state, (N, 1)) for state in states]
    return sample(layers, cell, model, model.words[:, 0], None, states, 4)


@program
def sample_with_zero_as_first_state(layers, cell, model, careful):
    """All states are the number 0."""
    zero = np.zeros((N, H), model.x.dtype) if careful else 0
    return sample(layers, cell, model, model.words[:, 0], None, [zero] * len(STATES[cell]), 4)


@program
def sample_with_features_and_zero_as_first_cell_state(layers, cell, model, careful):
    """Captioning: the hidden state comes from an image, and the cell state is 0.0."""
    rest = [np.zeros((N, H), model.x.dtype) if careful else 0.0] * (len(STATES[cell]) - 1)
    return sample(layers, cell, model, np.full(N, START), None, [model.first[0], *rest], 4)


@program
def sample_squeezed(layers, cell, model, careful):
    """One sequence without an axis for the batch: a word is a number, an input and a state are vectors."""
    states = [state[2] for state in model.first]
    if not careful:
        return sample(layers, cell, model, START, None, states, 5)
    trace = sample(layers, cell, model, np.array([START]), None, [state[None] for state in states], 5)
    return [np.asarray(a[0]) for a in trace]


@program
def sample_squeezed_from_nothing(layers, cell, model, careful):
    """As before, with 0 for the states: all that is known of the state's size is in the weights."""
    if not careful:
        return sample(layers, cell, model, START, None, [0] * len(STATES[cell]), 5)
    zeros = [np.zeros((1, H), model.x.dtype)] * len(STATES[cell])
    return [np.asarray(a[0]) for a in sample(layers, cell, model, np.array([START]), None, zeros, 5)]


@program
def sample_with_beams(layers, cell, model, careful):
    """States are picked by index arrays and transposed views; words are strided."""
    states = [state[[4, 0, 0, 2]] for state in model.first]
    words = model.words[[4, 0, 0, 2], ::3][:, 1]
    if not careful:
        states = [np.asfortranarray(state) for state in states]
    return sample(layers, cell, model, words.copy() if careful else words, None, states, 3)


@program
def step_on_lists(layers, cell, model, careful):
    """Inputs and states typed in by hand."""
    step = functions(layers, cell)[2]
    x, states = [[0.5, -1.0, 0.25, 0.0, 2.0, 1.0]], [[[0.125 * k for k in range(H)]]] * len(STATES[cell])
    weights = {name: array.astype(np.float64) for name, array in (model.weights | model.options).items()}
    if careful:
        x, states = np.array(x), [np.array(state) for state in states]
    return step(x, *states, **weights)[:-1]


@program
def run_lists(layers, cell, model, careful):
    """A whole sequence typed in by hand, and a state of which each row gets a copy."""
    x, states = [[[0.5, -1.0, 0.25, 0.0, 2.0, 1.0]] * 3] * 2, [[0.125 * k for k in range(H)]] * len(STATES[cell])
    weights = {name: array.astype(np.float64) for name, array in (model.weights | model.options).items()}
    if careful:
        x, states = np.array(x), [np.tile(state, (2, 1)) for state in states]
    result = functions(layers, cell)[0](x, **by_name(cell, states), **weights)
    return [result.h, *result.state]


@program
def embed_in_any_shape(layers, cell, model, careful):
    """A word, a list of words, words of sentences of documents; and back."""
    results = []
    for words in (3, [3, 0, 3], model.words, model.words.reshape(N, 2, T // 2)):
        matrix = np.asarray(words).reshape(1, -1) if careful else words
        out, cache = layers.word_embedding_forward(matrix, model.W_embed)
        shape = (*np.shape(words), D)
        dout = np.linspace(-1, 1, np.prod(shape), dtype=out.dtype).reshape(out.shape if careful else shape)
        results += [out.reshape(shape) if careful else out, layers.word_embedding_backward(dout, cache)]
    return results


@program
def train_step_by_step(layers, cell, model, careful):
    """A loop over steps in Python, as in the exercise; 0 is what arrives at the last step and at its cell state."""
    forward, backward, step, step_backward = functions(layers, cell)
    if careful:
        zeros = [np.zeros((N, H), model.x.dtype)] * len(STATES[cell])
        result = forward(model.x, **by_name(cell, zeros), **model.weights, **model.options)
        dx, _, *gradients = backward(model.dh, result.cache)
        return [result.h, dx, *gradients]
    states, caches, h, dx, totals = [0] * len(STATES[cell]), [], [], [], 0
    for t in range(T):
        *states, cache = step(model.x[:, t], *states, **model.weights, **model.options)
        caches.append(cache)
        h.append(states[0])
    dstates = [0] * len(states)
    for t in reversed(range(T)):
        dx_t, *gradients = step_backward(model.dh[:, t] + dstates[0], *dstates[1:], caches[t])
        dstates, gradients = gradients[: len(states)], gradients[len(states) :]
        dx.append(dx_t)
        totals = [total + gradient for total, gradient in zip(totals or [0] * 3, gradients, strict=True)]
    return [np.stack(h, axis=1), np.stack(dx[::-1], axis=1), *totals]


@program
def step_back_to_what_was_shared(layers, cell, model, careful):
    """One input and one state for all rows: their gradients are sums, in their shapes."""
    _, _, step, step_backward = functions(layers, cell)
    x, states = model.x[0, 0], [state[0] for state in model.first]
    shared = [model.x[:, 0], *(state[:1] for state in model.first)]
    dstates = [model.dh[:, 0], model.dh[:, 1]][: len(states)]
    results = []
    for given in ([x, *model.first], [model.x[:, 0], *states], shared):
        whole = [np.tile(a, (N // np.atleast_2d(a).shape[0], 1)) if careful else a for a in given]
        *_, cache = step(*whole, **model.weights, **model.options)
        gradients = list(step_backward(*dstates, cache))
        if careful:
            for place, a in enumerate(given):
                if a.shape != gradients[place].shape:
                    gradients[place] = gradients[place].sum(axis=0).reshape(a.shape)
        results += gradients
    return results


@program
def step_back_squeezed(layers, cell, model, careful):
    """One row without an axis for the batch, forward and backward."""
    _, _, step, step_backward = functions(layers, cell)
    given = [model.x[:, 0], *model.first]
    dstates = [model.dh[:, 0], model.dh[:, 1]][: len(model.first)]
    row = slice(2, 3) if careful else 2
    *states, cache = step(*(a[row] for a in given), **model.weights, **model.options)
    gradients = list(step_backward(*(d[row] for d in dstates), cache))
    for results in (states, gradients) if careful else ():
        results[: len(given)] = [a[0] if a.shape[0] == 1 and a.ndim == 2 else a for a in results[: len(given)]]
    return [*states, *gradients]


@program
def train_from_wide_zero_states(layers, cell, model, careful):
    """``np.zeros((N, H))`` is float64, whatever the weights are."""
    forward, backward, step, _ = functions(layers, cell)
    zeros = [np.zeros((N, H), model.x.dtype if careful else np.float64)] * len(STATES[cell])
    result = forward(model.x, **by_name(cell, zeros), **model.weights, **model.options)
    states = step(model.x[:, 0], *zeros, **model.weights, **model.options)[:-1]
    return [result.h, *result.state, *backward(model.dh, result.cache), *states]


@program
def train_with_no_state(layers, cell, model, careful):
    """None is a state of zeros, and its gradient that of one for each row."""
    forward, backward, *_ = functions(layers, cell)
    states = {"h0": None}
    if careful:
        states = by_name(cell, [np.zeros((N, H), model.x.dtype)] * len(STATES[cell]))
    result = forward(model.x, **states, **model.weights, **model.options)
    gradients = backward(model.dh, result.cache)
    return [result.h, *result.state, *gradients, *(getattr(gradients, f"d{name}") for name in STATES[cell])]


@program
def train_truncated(layers, cell, model, careful):
    """Pieces of a long sequence, one after another: states flow on, gradients do not; weights learn in between."""
    forward, backward, *_ = functions(layers, cell)
    weights = {name: array.copy() for name, array in model.weights.items()}
    state, trace = [None] * len(STATES[cell]), []
    if careful:
        state = [np.zeros((N, H), model.x.dtype)] * len(STATES[cell])
    for t in range(0, T, 3):
        result = forward(model.x[:, t : t + 3], **by_name(cell, state), **weights, **model.options)
        _, _, *gradients = backward(model.dh[:, t : t + 3], result.cache)
        for array, gradient in zip(weights.values(), gradients, strict=True):
            array -= 0.1 * gradient
        if careful:
            state = [array.copy() for array in result.state]
        else:
            result.h[...] = np.nan  # the state is no part of it
            state = result.state
        state[0][0] = 0  # one row begins anew
        trace += [*state]
    return [*trace, *weights.values()]


@program
def train_in_pieces(layers, cell, model, careful):
    """Pieces through which gradients flow too, last piece first: the same as the whole."""
    forward, backward, *_ = functions(layers, cell)
    if careful:
        result = forward(model.x, **by_name(cell, model.first), **model.weights, **model.options)
        gradients = backward(model.dh, result.cache)
        dx, _, *rest = gradients
        return [*result.state, dx, *rest, *(getattr(gradients, f"d{name}") for name in STATES[cell])]
    state, caches, dx, totals, dstate = model.first, [], [], [0] * 3, None
    for t in range(0, T, 3):
        result = forward(model.x[:, t : t + 3], **by_name(cell, state), **model.weights, **model.options)
        state = result.state
        caches.append(result.cache)
    for piece in reversed(range(len(caches))):
        gradients = backward(model.dh[:, 3 * piece : 3 * piece + 3], caches[piece], dstate=dstate)
        dstate = type(state)(*(getattr(gradients, f"d{name}") for name in STATES[cell]))
        totals = [total + gradient for total, gradient in zip(totals, gradients[2:], strict=True)]
        dx.insert(0, gradients[0])
    return [*state, np.concatenate(dx, axis=1), *totals, *dstate]


@program
def learn_first_states(layers, cell, model, careful):
    """First states are parameters: one vector, of which each row gets a copy and to whose gradient each row adds."""
    forward, backward, *_ = functions(layers, cell)
    first = [state[0].copy() for state in model.first]
    for _ in range(3):
        given = [np.tile(state, (N, 1)) for state in first] if careful else first
        result = forward(model.x, **by_name(cell, given), **model.weights, **model.options)
        gradients = backward(model.dh, result.cache)
        for name, state in zip(STATES[cell], first, strict=True):
            gradient = getattr(gradients, f"d{name}")
            state -= 0.1 * (gradient.sum(axis=0) if careful else gradient)
    return first


@program
def translate(layers, cell, model, careful):
    """An encoder of which only the last state counts, and a decoder that starts from it."""
    forward, backward, *_ = functions(layers, cell)
    source, target = model.x[:, :5], model.x[:, 5:]
    encoded = forward(source, **by_name(cell, model.first), **model.weights, **model.options)
    decoded = forward(target, **by_name(cell, encoded.state), **model.weights, **model.options)
    gradients = backward(model.dh[:, 5:], decoded.cache)
    dstate = type(encoded.state)(*(getattr(gradients, f"d{name}") for name in STATES[cell]))
    dh = np.zeros((N, 5, H), model.x.dtype) if careful else None
    earlier = backward(dh, encoded.cache, dstate=dstate)
    return [decoded.h, *gradients, *earlier, *(getattr(earlier, f"d{name}") for name in STATES[cell])]


@program
def classify(layers, cell, model, careful):
    """The last hidden state alone decides; its gradient arrives as an array, or as a state."""
    forward, backward, *_ = functions(layers, cell)
    result = forward(model.x, **by_name(cell, model.first), **model.weights, **model.options)
    scores = np.dot(result.state.h, model.W_vocab)
    dlast = np.dot(scores, model.W_vocab.T)
    if careful:
        dh = np.zeros_like(model.dh)
        dh[:, -1] = dlast
        return [scores, *backward(dh, result.cache)]
    dstate = type(result.state)(dlast, None) if cell == "lstm" else dlast
    return [scores, *backward(None, result.cache, dstate=dstate)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("function", PROGRAMS, ids=lambda function: function.__name__)
def test_program__does_what_its_careful_twin_does(layers, function, cell, dtype):
    got = function(layers, cell, make_model(cell, dtype), careful=False)
    wanted = function(reference, cell, make_model(cell, dtype), careful=True)
    for a, b in zip(got, wanted, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert a.dtype.kind == b.dtype.kind
        np.testing.assert_allclose(a, b, rtol=0, atol=500 * np.finfo(dtype).eps * max(np.abs(b).max(), 1))
