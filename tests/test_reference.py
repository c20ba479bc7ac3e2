"""`reference` against values computed by hand and against finite differences."""

import math

import numpy as np
import pytest
from helpers import make_arguments, numerical_gradient

from rnnkernels import reference
from rnnkernels._results import GRUState, LSTMState, RNNState

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STATES = {"rnn": ("h0",), "lstm": ("h0", "c0"), "gru": ("h0",)}
OPTIONS = [("rnn", {}), ("lstm", {}), ("gru", {"reset_after": True}), ("gru", {"reset_after": False})]
SHAPES_OF_STATES = [(3, 4), (1, 4), (4,), ()]


def make_problem(rng, cell, N, T, D, H):
    """All arguments of a forward pass by name, float64."""
    named = dict(
        zip(("x", "h0", "Wx", "Wh", "b"), make_arguments(rng, GATES[cell], N, T, D, H, np.float64), strict=True)
    )
    if cell == "lstm":
        named["c0"] = rng.standard_normal((N, H))
    if cell == "gru":
        named["bh"] = 0.5 * rng.standard_normal(3 * H)
    return named


def make_step(rng, cell, x_shape, state_shapes, H):
    """All arguments of a step by name, float64, in the order of the step."""
    named = {"x": np.array(rng.standard_normal(x_shape))}
    for name, shape in zip(("prev_h", "prev_c"), state_shapes, strict=False):
        named[name] = np.array(rng.standard_normal(shape))
    named.update(
        zip(("Wx", "Wh", "b"), make_arguments(rng, GATES[cell], 1, 1, x_shape[-1], H, np.float64)[2:], strict=True)
    )
    if cell == "gru":
        named["bh"] = 0.5 * rng.standard_normal(3 * H)
    return named


def assert_gradients(function, named, gradients, upstream):
    """Compare the gradient of every argument with finite differences: of its value and of its shape."""
    for name, argument in named.items():
        expected = numerical_gradient(function, argument, upstream)
        assert np.shape(gradients[name]) == argument.shape, name
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-8, atol=1e-9, err_msg=name)


def test_sigmoid__by_hand():
    np.testing.assert_allclose(
        reference.sigmoid(np.array([-800.0, -math.log(3), 0.0, math.log(3), 800.0])), [0.0, 0.25, 0.5, 0.75, 1.0]
    )


def test_rnn_forward_and_backward__by_hand():
    x, h0, b = np.array([[[1.0], [2.0]]]), np.array([[0.25]]), np.array([math.log(2) - 1.0])
    Wx, Wh = np.array([[0.5]]), np.array([[2.0]])
    # z = 0.5 * 1 + 2 * 0.25 + b = ln 2, whose tanh is 3/5; then z = 0.5 * 2 + 2 * 3/5 + b.
    last = math.tanh(1.2 + math.log(2))
    h, cache = reference.rnn_forward(x, h0, Wx, Wh, b)
    np.testing.assert_allclose(h, [[[3 / 5], [last]]], rtol=1e-14)

    dx, dh0, dWx, dWh, db = reference.rnn_backward(np.array([[[3.0], [5.0]]]), cache)
    dz_last = 5 * (1 - last**2)
    dz_first = (3 + 2 * dz_last) * (1 - 9 / 25)
    np.testing.assert_allclose(dx, [[[0.5 * dz_first], [0.5 * dz_last]]], rtol=1e-14)
    np.testing.assert_allclose(dh0, [[2 * dz_first]], rtol=1e-14)
    np.testing.assert_allclose(dWx, [[1 * dz_first + 2 * dz_last]], rtol=1e-14)
    np.testing.assert_allclose(dWh, [[0.25 * dz_first + 3 / 5 * dz_last]], rtol=1e-14)
    np.testing.assert_allclose(db, [dz_first + dz_last], rtol=1e-14)


def test_lstm_step__by_hand_in_gate_order_i_f_o_g():
    # Gates from the bias alone: i = 3/4, f = 1/4, o = 1/2 and g = tanh(ln 2) = 3/5. The cell state becomes ln 2 again.
    b = np.array([math.log(3), -math.log(3), 0.0, math.log(2)])
    x, prev_h, prev_c = np.array([[2.0]]), np.array([[-3.0]]), np.array([[4 * (math.log(2) - 9 / 20)]])
    Wx, Wh = np.array([[0.0, 0.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 0.0, 0.0]])
    next_h, next_c, cache = reference.lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b)
    np.testing.assert_allclose(next_c, [[math.log(2)]], rtol=1e-14)
    np.testing.assert_allclose(next_h, [[1 / 2 * 3 / 5]], rtol=1e-14)

    # dc = 2 + 1 * 1/2 * (1 - 9/25) = 2.32
    dx, dprev_h, dprev_c, dWx, dWh, db = reference.lstm_step_backward(np.array([[1.0]]), np.array([[2.0]]), cache)
    dz = np.array(
        [
            2.32 * 3 / 5 * (3 / 4 * 1 / 4),
            2.32 * 4 * (math.log(2) - 9 / 20) * (1 / 4 * 3 / 4),
            1.0 * 3 / 5 * (1 / 2 * 1 / 2),
            2.32 * 3 / 4 * (1 - 9 / 25),
        ]
    )
    np.testing.assert_allclose(db, dz, rtol=1e-14)
    np.testing.assert_allclose(dprev_c, [[2.32 / 4]], rtol=1e-14)
    np.testing.assert_allclose(dWx, [2 * dz], rtol=1e-14)
    np.testing.assert_allclose(dWh, [-3 * dz], rtol=1e-14)
    np.testing.assert_array_equal(dx, [[0.0]])
    np.testing.assert_array_equal(dprev_h, [[0.0]])


def test_lstm_step__multiplies_each_gate_block_by_its_weights():
    """Two hidden units: block q of the columns belongs to gate q of both units."""
    b, zeros = np.zeros(8), np.zeros((1, 2))
    Wx = np.arange(1.0, 9.0).reshape(1, 8) / 10
    next_h, next_c, _ = reference.lstm_step_forward(np.array([[1.0]]), zeros, zeros, Wx, np.zeros((2, 8)), b)
    for unit in range(2):
        i, o = 1 / (1 + math.exp(-(unit + 1) / 10)), 1 / (1 + math.exp(-(unit + 5) / 10))
        g = math.tanh((unit + 7) / 10)
        np.testing.assert_allclose(next_c[0, unit], i * g, rtol=1e-14)
        np.testing.assert_allclose(next_h[0, unit], o * math.tanh(i * g), rtol=1e-14)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_step__by_hand_in_gate_order_r_z_n(reset_after):
    # r = 3/4 and z = 1/4 from the bias alone. The argument of tanh is ln 2, so n = 3/5, either by q = 2 * 1 + 2 = 4 as
    # b_n + 3/4 * 4, or by q = 3/4 * 2 = 3/2 as b_n + 3/2 * 1 + 2.
    b = np.array([math.log(3), -math.log(3), math.log(2) - (3.0 if reset_after else 3.5)])
    x, prev_h, bh = np.array([[-5.0]]), np.array([[2.0]]), np.array([0.0, 0.0, 2.0])
    Wx, Wh = np.array([[0.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    next_h, cache = reference.gru_step_forward(x, prev_h, Wx, Wh, b, bh=bh, reset_after=reset_after)
    np.testing.assert_allclose(next_h, [[3 / 4 * 3 / 5 + 1 / 4 * 2]], rtol=1e-14)

    # dzx_n = 3/4 * (1 - 9/25) = 0.48, dzx_z = (2 - 3/5) * 3/16, dzx_r = 0.48 * (q or prev_h) * 3/16
    gradients = reference.gru_step_backward(np.array([[1.0]]), cache)
    dx, dprev_h, dWx, dWh, db = gradients
    dzx = np.array([0.48 * (4 if reset_after else 2) * 3 / 16, 1.4 * 3 / 16, 0.48])
    np.testing.assert_allclose(db, dzx, rtol=1e-14)
    np.testing.assert_allclose(dWx, [-5 * dzx], rtol=1e-14)
    np.testing.assert_allclose(gradients.dbh, dzx * [1, 1, 3 / 4 if reset_after else 1], rtol=1e-14)
    np.testing.assert_allclose(dWh, [dzx * [2, 2, 3 / 4 * 2]], rtol=1e-14)
    np.testing.assert_allclose(dprev_h, [[1 / 4 + 0.48 * 3 / 4]], rtol=1e-14)
    np.testing.assert_array_equal(dx, [[0.0]])


def test_gru_step__multiplies_each_gate_block_by_its_weights():
    """Two hidden units: block q of the columns belongs to gate q of both units."""
    Wx, zeros = np.arange(1.0, 7.0).reshape(1, 6) / 10, np.zeros((1, 2))
    next_h, _ = reference.gru_step_forward(np.array([[1.0]]), zeros, Wx, np.zeros((2, 6)), np.zeros(6))
    for unit in range(2):
        z, n = 1 / (1 + math.exp(-(unit + 3) / 10)), math.tanh((unit + 5) / 10)
        np.testing.assert_allclose(next_h[0, unit], (1 - z) * n, rtol=1e-14)


@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_forward__takes_the_steps_one_after_another(rng, cell, options):
    named = make_problem(rng, cell, 2, 3, 4, 5)
    result = getattr(reference, f"{cell}_forward")(**named, **options)
    h, _ = result
    x, state = named.pop("x"), [named.pop(name) for name in STATES[cell]]
    for t in range(3):
        *state, _ = getattr(reference, f"{cell}_step_forward")(x[:, t], *state, **named, **options)
        np.testing.assert_allclose(h[:, t], state[0], rtol=1e-14)
    assert type(result.state) is {"rnn": RNNState, "lstm": LSTMState, "gru": GRUState}[cell]
    np.testing.assert_allclose(result.state, state, rtol=1e-14)
    assert result.state is result.state


@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_forward__takes_none_for_what_is_zero(rng, cell, options):
    named = make_problem(rng, cell, 2, 3, 4, 5)
    for name in {"h0", "c0", "bh"} & set(named):
        named[name] = np.zeros_like(named[name])
    forward, backward = getattr(reference, f"{cell}_forward"), getattr(reference, f"{cell}_backward")
    h, cache = forward(**named, **options)
    required = {name: named[name] for name in ("x", "Wx", "Wh", "b")}
    without = forward(h0=None, **required, **options)
    np.testing.assert_array_equal(without.h, h)
    dh = rng.standard_normal(h.shape)
    gradients, expected = backward(dh, without.cache), backward(dh, cache)
    for name, gradient in (*vars(expected).items(), *zip("12345", expected, strict=True)):
        got = vars(gradients)[name] if name in vars(expected) else gradients[int(name) - 1]
        np.testing.assert_array_equal(got, gradient, err_msg=name)


@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_state__is_the_callers_own(rng, cell, options):
    named = make_problem(rng, cell, 2, 3, 4, 5)
    forward, backward = getattr(reference, f"{cell}_forward"), getattr(reference, f"{cell}_backward")
    result = forward(**named, **options)
    dh = rng.standard_normal(result.h.shape)
    expected = [gradient.copy() for gradient in backward(dh, result.cache)]
    for array in result.state:
        array[...] = np.nan
    assert np.isfinite(result.h).all()
    for gradient, want in zip(backward(dh, result.cache), expected, strict=True):
        np.testing.assert_array_equal(gradient, want)


@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_no_steps__give_the_first_state_and_its_gradient_back(rng, cell, options):
    named = make_problem(rng, cell, 2, 0, 4, 5)
    result = getattr(reference, f"{cell}_forward")(**named, **options)
    dstate = type(result.state)(*(rng.standard_normal((2, 5)) for _ in result.state))
    gradients = getattr(reference, f"{cell}_backward")(None, result.cache, dstate=dstate)
    for name, state, dlast in zip(STATES[cell], result.state, dstate, strict=True):
        np.testing.assert_array_equal(state, named[name])
        np.testing.assert_array_equal(getattr(gradients, f"d{name}"), dlast)
    assert not any(gradient.any() for gradient in gradients[2:])


@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize("lengths", [None, ()])
@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_no_sequences__leave_gradients_of_weights_that_are_zero(rng, cell, options, lengths, outputs):
    named = make_problem(rng, cell, 0, 3, 4, 5)
    result = getattr(reference, f"{cell}_forward")(**named, **options, lengths=lengths, outputs=outputs)
    assert result[0].shape == ((0, 5) if outputs == "last" else (0, 3, 5))
    gradients = getattr(reference, f"{cell}_backward")(result[0], result.cache)
    for name in named:
        gradient = getattr(gradients, f"d{name}")
        assert gradient.shape == named[name].shape
        assert not gradient.any()


def test_word_embedding__by_hand():
    W = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    out, cache = reference.word_embedding_forward(np.array([[2, 0, 2]]), W)
    np.testing.assert_array_equal(out, [[[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]])
    dW = reference.word_embedding_backward(np.array([[[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]]), cache)
    np.testing.assert_array_equal(dW, [[3.0, 4.0], [0.0, 0.0], [11.0, 22.0]])


def test_temporal_affine__by_hand():
    x, w, b = (
        np.array([[[1.0, 2.0], [3.0, -1.0]]]),
        np.array([[1.0, 0.0, 2.0], [0.5, 4.0, 1.0]]),
        np.array([0.0, 1.0, -1.0]),
    )
    out, cache = reference.temporal_affine_forward(x, w, b)
    np.testing.assert_array_equal(out, [[[2.0, 9.0, 3.0], [2.5, -3.0, 4.0]]])
    dx, dw, db = reference.temporal_affine_backward(np.array([[[1.0, 0.0, 2.0], [0.0, 3.0, -1.0]]]), cache)
    np.testing.assert_array_equal(dx, [[[5.0, 2.5], [-2.0, 11.0]]])
    np.testing.assert_array_equal(dw, [[1.0, 9.0, -1.0], [2.0, -3.0, 5.0]])
    np.testing.assert_array_equal(db, [1.0, 3.0, 1.0])


def test_temporal_softmax_loss__by_hand():
    x = np.log(np.array([[[1.0, 3.0], [1.0, 1.0]], [[1.0, 1.0], [9.0, 1.0]]]))
    loss, dx = reference.temporal_softmax_loss(x, np.array([[1, 0], [-5, 0]]), np.array([[True, True], [False, True]]))
    np.testing.assert_allclose(loss, (-math.log(3 / 4) - math.log(1 / 2) - math.log(9 / 10)) / 2)
    np.testing.assert_allclose(dx, np.array([[[0.25, -0.25], [-0.5, 0.5]], [[0.0, 0.0], [-0.1, 0.1]]]) / 2, atol=1e-15)


@pytest.mark.parametrize("from_outside", ["dh", "dstate", "dh and dstate"])
@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_sequence_gradients__match_finite_differences(rng, cell, options, from_outside):
    N, T, H = 2, 4, 2
    named = make_problem(rng, cell, N, T, 3, H)
    forward, backward = getattr(reference, f"{cell}_forward"), getattr(reference, f"{cell}_backward")

    def everything():
        result = forward(**named, **options)
        return np.concatenate([np.moveaxis(result.h, 1, 0), *np.reshape(result.state, (-1, 1, N, H))])

    upstream = np.zeros(everything().shape)
    dh, dstate = None, None
    if "dh" in from_outside:
        dh = rng.standard_normal((N, T, H))
        upstream[:T] = np.moveaxis(dh, 1, 0)
    result = forward(**named, **options)
    if "dstate" in from_outside:
        dstate = type(result.state)(*rng.standard_normal((len(result.state), N, H)))
        upstream[T:] = dstate
    gradients = backward(dh, result.cache, dstate=dstate)
    assert gradients[1] is gradients.dh0
    assert_gradients(everything, named, {name: getattr(gradients, f"d{name}") for name in named}, upstream)


@pytest.mark.parametrize("shape", SHAPES_OF_STATES)
@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_sequence_gradients__have_the_shape_of_first_states_that_broadcast(rng, cell, options, shape):
    named = make_problem(rng, cell, 3, 2, 2, 4)
    for name in STATES[cell]:
        named[name] = np.array(rng.standard_normal(shape))
    forward = getattr(reference, f"{cell}_forward")
    h, cache = forward(**named, **options)
    dh = rng.standard_normal(h.shape)
    gradients = getattr(reference, f"{cell}_backward")(dh, cache)
    gradients = {name: getattr(gradients, f"d{name}") for name in named}
    assert_gradients(lambda: forward(**named, **options).h, named, gradients, dh)


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_dstate__of_one_array_may_be_that_array_and_broadcast(rng, cell):
    named = make_problem(rng, cell, 2, 3, 2, 4)
    _, cache = getattr(reference, f"{cell}_forward")(**named)
    backward, dlast = getattr(reference, f"{cell}_backward"), rng.standard_normal(4)
    expected = backward(None, cache, dstate=RNNState(np.broadcast_to(dlast, (2, 4))))
    for gradient, want in zip(backward(None, cache, dstate=dlast), expected, strict=True):
        np.testing.assert_array_equal(gradient, want)


def test_dstate__has_none_for_no_gradient(rng):
    named = make_problem(rng, "lstm", 2, 3, 2, 4)
    _, cache = reference.lstm_forward(**named)
    dc = rng.standard_normal((2, 4))
    expected = reference.lstm_backward(np.zeros((2, 3, 4)), cache, dstate=LSTMState(np.zeros((2, 4)), dc))
    for gradient, want in zip(reference.lstm_backward(None, cache, dstate=(None, dc)), expected, strict=True):
        np.testing.assert_array_equal(gradient, want)


@pytest.mark.parametrize("shape", SHAPES_OF_STATES)
@pytest.mark.parametrize("x_shape", [(3, 2), (1, 2), (2,)])
@pytest.mark.parametrize(("cell", "options"), OPTIONS)
def test_step_gradients__match_finite_differences_where_arrays_broadcast(rng, cell, options, x_shape, shape):
    states = [shape, (4,)][: len(STATES[cell])]
    named = make_step(rng, cell, x_shape, states, 4)
    step = getattr(reference, f"{cell}_step_forward")
    *next_state, cache = step(**named, **options)
    H = 4
    assert next_state[0].shape == np.broadcast_shapes((*x_shape[:-1], H), *((*s[:-1], H) for s in states))
    dnext = rng.standard_normal((len(next_state), *next_state[0].shape))
    gradients = getattr(reference, f"{cell}_step_backward")(*dnext, cache)
    named_gradients = dict(zip((name for name in named if name != "bh"), gradients, strict=True))
    if cell == "gru":
        named_gradients["bh"] = gradients.dbh
        assert gradients.dprev_h is gradients[1]
    assert_gradients(lambda: np.stack(step(**named, **options)[:-1]), named, named_gradients, dnext)


def test_step__takes_lists_and_numbers(rng):
    Wx, Wh, b = (a.astype(np.float32) for a in make_arguments(rng, 4, 1, 1, 2, 3, np.float32)[2:])
    x = rng.standard_normal((1, 2))
    next_h, next_c, cache = reference.lstm_step_forward(x.tolist(), 0, 0, Wx, Wh, b)
    expected_h, expected_c, _ = reference.lstm_step_forward(x, np.zeros((1, 3)), np.zeros((1, 3)), Wx, Wh, b)
    np.testing.assert_array_equal(next_h, expected_h)
    np.testing.assert_array_equal(next_c, expected_c)
    next_h, _, cache = reference.lstm_step_forward(x[0].astype(np.float32), 0, 0, Wx, Wh, b)
    assert next_h.shape == (3,)
    assert {gradient.dtype for gradient in reference.lstm_step_backward(next_h, 0, cache)} == {np.dtype(np.float32)}


def test_temporal_affine_gradients__match_finite_differences(rng):
    args = [rng.standard_normal(shape) for shape in ((2, 3, 4), (4, 5), (5,))]
    out, cache = reference.temporal_affine_forward(*args)
    dout = rng.standard_normal(out.shape)
    for argument, gradient in zip(args, reference.temporal_affine_backward(dout, cache), strict=True):
        expected = numerical_gradient(lambda: reference.temporal_affine_forward(*args)[0], argument, dout)
        np.testing.assert_allclose(gradient, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 2)])
def test_word_embedding__takes_words_of_any_shape(rng, shape):
    words, W = rng.integers(0, 5, shape), rng.standard_normal((5, 3))
    out, cache = reference.word_embedding_forward(words, W)
    assert out.shape == (*shape, 3)
    dout = rng.standard_normal(out.shape)
    expected = numerical_gradient(lambda: reference.word_embedding_forward(words, W)[0], W, dout)
    np.testing.assert_allclose(reference.word_embedding_backward(dout, cache), expected, rtol=1e-8, atol=1e-9)


def test_word_embedding_gradient__matches_finite_differences(rng):
    words, W = rng.integers(0, 5, (2, 6)), rng.standard_normal((5, 3))
    out, cache = reference.word_embedding_forward(words, W)
    dout = rng.standard_normal(out.shape)
    expected = numerical_gradient(lambda: reference.word_embedding_forward(words, W)[0], W, dout)
    np.testing.assert_allclose(reference.word_embedding_backward(dout, cache), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("weights", [False, True])
def test_temporal_softmax_loss_gradient__matches_finite_differences(rng, weights):
    x, y = rng.standard_normal((3, 4, 5)), rng.integers(0, 5, (3, 4))
    mask = rng.random((3, 4)) if weights else rng.random((3, 4)) < 0.6
    _, dx = reference.temporal_softmax_loss(x, y, mask)
    expected = numerical_gradient(lambda: reference.temporal_softmax_loss(x, y, mask)[0], x, 1.0)
    np.testing.assert_allclose(dx, expected, rtol=1e-8, atol=1e-9)
