"""LSTMs whose hidden state is projected, with and without peepholes, a clip and coupled gates."""

import copy
import pickle

import numpy as np
import pytest
from helpers import (
    DTYPES,
    assert_all_close,
    assert_same_bits,
    exact,
    force_packing,
    numerical_gradient,
)

import rnnkernels
from rnnkernels import _threads, reference
from rnnkernels._costs import backward_costs, forward_costs
from rnnkernels._sequence import plan_backward, plan_forward
from rnnkernels.kernels.lstm import PROJECTED
from rnnkernels.kernels.simd import TINY

VARIANTS = {
    "plain": {},
    "peepholes and clip": {"peepholes": True, "cell_clip": 0.4},
    "everything": {"peepholes": True, "coupled": True, "cell_clip": 0.4},
}
SIZES = [
    *((3, 2, 2, 1, 1), (2, 3, 4, 5, 3), (5, 4, 16, 15, 16), (7, 9, 5, 17, 40), (13, 30, 9, 41, 8), (1, 40, 2, 24, 7)),
    *((14, 6, 4, 70, 33), (3, 5, 3, 16, 1)),
]
"""N, T, D, H, P."""

variants = pytest.mark.parametrize("variant", VARIANTS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def make(rng, variant, N, T, D, H, P, dtype):
    """Arguments, and the options with a random projection and random peepholes."""
    options = dict(VARIANTS[variant])
    gates = 3 if options.get("coupled") else 4

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    columns = gates * H
    weights = (
        normal(D, columns, scale=1 / np.sqrt(D)),
        normal(P, columns, scale=1 / np.sqrt(P)),
        normal(columns, scale=0.5),
    )
    options["projection"] = normal(H, P, scale=2 / np.sqrt(H))
    if "peepholes" in options:
        options["peepholes"] = normal(gates - 1, H, scale=0.5)
    return [normal(N, T, D), normal(N, P), *weights], options


def in_longdouble(options):
    return {name: exact([value])[0] if isinstance(value, np.ndarray) else value for name, value in options.items()}


def everything(gradients):
    """All gradients by name."""
    names = gradients._names
    return {**dict(zip(names, gradients, strict=True)), **vars(gradients)}


def assert_all_like(got, want, dtype):
    assert got.keys() == want.keys()
    assert_all_close(got.values(), [want[name] for name in got], dtype)


@pytest.mark.parametrize("packed", [False, True])
@dtypes
@pytest.mark.parametrize("sizes", SIZES)
@variants
def test_sequence__matches_reference(rng, variant, sizes, dtype, packed, monkeypatch):
    force_packing(monkeypatch, packed)
    N, T, _, H, P = sizes
    arguments, options = make(rng, variant, *sizes, dtype)
    c0, dh, dlast, dc = (rng.standard_normal(s).astype(dtype) for s in ((N, H), (N, T, P), (N, P), (N, H)))
    result = rnnkernels.lstm_forward(*arguments, c0=c0, **options)
    expected = reference.lstm_forward(*exact(arguments), c0=exact([c0])[0], **in_longdouble(options))
    assert_all_close([result.h, *result.state], [expected.h, *expected.state], dtype)
    assert_all_close([result.cache.c], [np.asarray(expected.cache[6])[:, 1:]], dtype)
    got = rnnkernels.lstm_backward(dh, result.cache, dstate=(dlast, dc))
    want = reference.lstm_backward(exact([dh])[0], expected.cache, dstate=tuple(exact([dlast, dc])))
    assert_all_like(everything(got), everything(want), dtype)


@dtypes
@variants
def test_step__matches_reference_and_the_sequence(rng, variant, dtype):
    (x, h0, *weights), options = make(rng, variant, 3, 1, 4, 19, 6, dtype)
    c0, dh, dc = (rng.standard_normal((3, width)).astype(dtype) for width in (19, 6, 19))
    arguments = x[:, 0], h0, c0, *weights
    for _ in range(2):  # the second call is one of those that are remembered
        h, c, cache = rnnkernels.lstm_step_forward(*arguments, **options)
        expected_h, expected_c, tape = reference.lstm_step_forward(*exact(arguments), **in_longdouble(options))
        assert_all_close([h, c], [expected_h, expected_c], dtype)
        got = rnnkernels.lstm_step_backward(dh, dc, cache)
        want = reference.lstm_step_backward(*exact([dh, dc]), tape)
        assert_all_like(everything(got), everything(want), dtype)
        whole = rnnkernels.lstm_forward(x, h0, *weights, c0=c0, **options)
        assert_same_bits(whole.h[:, 0], h)
        assert_same_bits(whole.state.c, c)
        of_whole = rnnkernels.lstm_backward(dh, whole.cache, dstate=(None, dc))
        assert_same_bits(of_whole.dprojection, got.dprojection)
        assert_same_bits(of_whole.dWh, got.dWh)


def test_step__broadcasts_as_the_reference(rng):
    (_, _, *weights), options = make(rng, "plain", 1, 1, 3, 5, 2, np.float64)
    x, h, c = rng.standard_normal((4, 3)), rng.standard_normal(2), 0.5
    got = rnnkernels.lstm_step_forward(x, h, c, *weights, **options)
    want = reference.lstm_step_forward(x, h, c, *weights, **options)
    assert_all_close(got[:2], want[:2], np.float64)
    dh, dc = rng.standard_normal((4, 2)), rng.standard_normal((4, 5))
    got = rnnkernels.lstm_step_backward(dh, dc, got[2])
    want = reference.lstm_step_backward(dh, dc, want[2])
    assert_all_close([np.asarray(g) for g in got], [np.asarray(w) for w in want], np.float64)


@variants
def test_gradients__match_finite_differences(rng, variant):
    arguments, options = make(rng, variant, 2, 4, 3, 5, 3, np.float64)
    c0, dh = 0.1 * rng.standard_normal((2, 5)), rng.standard_normal((2, 4, 3))

    def run():
        return rnnkernels.lstm_forward(*arguments, c0=c0, **options).h

    gradients = rnnkernels.lstm_backward(dh, rnnkernels.lstm_forward(*arguments, c0=c0, **options).cache)
    pairs = list(zip([*arguments, c0], [*gradients, gradients.dc0], strict=True))
    pairs += [
        (options[name], getattr(gradients, f"d{name}")) for name in ("projection", "peepholes") if name in options
    ]
    for parameter, gradient in pairs:
        np.testing.assert_allclose(gradient, numerical_gradient(run, parameter, dh), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("P", [1, 20, 40])
@variants
def test_bits__depend_on_nothing_but_the_sequence(rng, variant, P, monkeypatch):
    """Neither on the batch, the threads, the pieces, the cache, nor on packing, lengths and checkpoints."""
    (x, h0, *weights), options = make(rng, variant, 13, 40, 5, 35, P, np.float32)
    dh = rng.standard_normal((13, 40, P)).astype(np.float32)
    result = rnnkernels.lstm_forward(x, h0, *weights, **options)
    gradients = rnnkernels.lstm_backward(dh, result.cache)

    def assert_same(other, other_gradients=None):
        assert_same_bits(other.h, result.h)
        assert_same_bits(other.state.h, result.state.h)
        assert_same_bits(other.state.c, result.state.c)
        if other_gradients is not None:
            for name, got in everything(other_gradients).items():
                assert_same_bits(got, everything(gradients)[name])

    alone = rnnkernels.lstm_forward(x[4:5], h0[4:5], *weights, **options)
    assert_same_bits(alone.h[0], result.h[4])
    of_alone = rnnkernels.lstm_backward(dh[4:5], alone.cache)
    assert_same_bits(of_alone.dx[0], gradients.dx[4])
    first = rnnkernels.lstm_forward(x[:, :17], h0, *weights, **options)
    rest = rnnkernels.lstm_forward(x[:, 17:], first.state.h, *weights, c0=first.state.c, **options)
    assert_same_bits(np.concatenate([first.h, rest.h], axis=1), result.h)
    assert_same(rnnkernels.lstm_forward(x, h0, *weights, keep_cache=False, **options))
    last = rnnkernels.lstm_forward(x, h0, *weights, outputs="last", **options)
    assert_same_bits(last.h, result.h[:, -1])
    for little in ({"checkpoint_every": 8}, {"memory_budget": 300_000}):
        few = rnnkernels.lstm_forward(x, h0, *weights, **little, **options)
        assert few.cache.checkpoints is not None
        assert_same(few, rnnkernels.lstm_backward(dh, few.cache))
    states, _ = h0, c = h0, np.zeros((13, 35), np.float32)
    for t in range(3):
        states, c, _ = rnnkernels.lstm_step_forward(x[:, t], states, c, *weights, **options)
        assert_same_bits(states, result.h[:, t])
    stream = rnnkernels.LSTMStream(*weights, h0, **options)
    assert_same_bits(np.concatenate([stream.steps(x[:, :7]), copy.deepcopy(stream).steps(x[:, 7:])], 1), result.h)
    assert_same_bits(pickle.loads(pickle.dumps(stream)).step(x[:, 7]), result.h[:, 7])
    layer = rnnkernels.LSTM(*weights, **options)
    of_layer = layer.forward(x, h0)
    assert_same(of_layer)
    for name, gradient in layer.backward(dh, of_layer.cache).gradients.items():
        assert_same_bits(gradient, everything(gradients)[f"d{name}"])
    kept = pickle.loads(pickle.dumps(result.cache))
    assert_same(result, rnnkernels.lstm_backward(dh, kept))
    for packed in (True, False):
        force_packing(monkeypatch, packed)
        other = rnnkernels.lstm_forward(x, h0, *weights, **options)
        assert_same(other, rnnkernels.lstm_backward(dh, other.cache))
    monkeypatch.setattr(_threads, "available_threads", lambda: 4)
    for threads in (2, 3):
        for by_rows in (False, True):
            monkeypatch.setattr("rnnkernels._sequence._split", lambda *_, n=threads, rows=by_rows: (n, rows))
            with monkeypatch.context() as patch:
                patch.setattr("rnnkernels._sequence.plans", {})
                for packed in (True, False):
                    force_packing(patch, packed)
                    other = rnnkernels.lstm_forward(x, h0, *weights, num_threads=threads, **options)
                    assert_same(other, rnnkernels.lstm_backward(dh, other.cache, num_threads=threads))


@variants
def test_lengths_and_directions__match_reference(rng, variant):
    (x, h0, *weights), options = make(rng, variant, 4, 7, 3, 18, 5, np.float64)
    dh, lengths, resets = rng.standard_normal((4, 7, 5)), [3, 7, 0, 5], rng.random((4, 7)) < 0.2
    for spans in ({"lengths": lengths}, {"lengths": lengths, "reverse": True, "resets": resets}):
        x[[0, 0, 2], [3, 6, 0]] = np.nan  # padding
        result = rnnkernels.lstm_forward(x, h0, *weights, **options, **spans)
        expected = reference.lstm_forward(x, h0, *weights, **options, **spans)
        got, want = rnnkernels.lstm_backward(dh, result.cache), reference.lstm_backward(dh, expected.cache)
        assert_all_close([result.h, *result.state], [expected.h, *expected.state], np.float64)
        assert_all_like(everything(got), everything(want), np.float64)


@dtypes
@pytest.mark.parametrize("packed", [False, True])
def test_tiny_states__are_zero_after_the_projection(rng, packed, dtype, monkeypatch):
    """In all passes; products of numbers that are not normal would take many times as long."""
    force_packing(monkeypatch, packed)
    (x, h0, *weights), options = make(rng, "plain", 3, 9, 3, 19, 5, dtype)
    options["projection"] *= dtype(TINY["float" if dtype is np.float32 else "double"] / 128)
    options["projection"][:, 2] = 1
    h, _ = rnnkernels.lstm_forward(x, h0, *weights, **options)
    others = [0, 1, 3, 4]
    assert not h[:, :, others].any()
    assert h[:, :, 2].all()
    assert_same_bits(rnnkernels.LSTMStream(*weights, h0, **options).steps(x), h)
    h, cache = rnnkernels.lstm_forward(x, None, *weights, **options)
    dWh = rnnkernels.lstm_backward(np.ones_like(h), cache).dWh
    assert not dWh[others].any()
    assert dWh[2].all()


def test_infinite_gradient__is_not_nan_in_the_other_rows(rng):
    arguments, options = make(rng, "plain", 3, 4, 2, 5, 3, np.float64)
    _, cache = rnnkernels.lstm_forward(*arguments, **options)
    dh = rng.standard_normal((3, 4, 3))
    calm = rnnkernels.lstm_backward(dh, cache)
    dh[1] = np.inf
    wild = rnnkernels.lstm_backward(dh, cache)
    assert_same_bits(wild.dx[[0, 2]], calm.dx[[0, 2]])


def test_infinite_gradient__stays_infinite(rng):
    """The padding of states and gradients, of which infinity times zero makes NaN, reaches no result."""
    (x, h0, *weights), options = make(rng, "plain", 1, 3, 1, 1, 1, np.float64)
    positive = [np.abs(array) for array in (x, h0, *weights)]
    options = {"projection": np.abs(options["projection"]), "c0": np.ones(1)}
    found = []
    for module in (reference, rnnkernels):
        _, cache = module.lstm_forward(*positive, **options)
        with np.errstate(invalid="ignore"):
            found.append(module.lstm_backward(np.full((1, 1), np.inf), cache))
    want, got = (everything(gradients) for gradients in found)
    assert np.isposinf(want["dh0"]).all()
    for name, gradient in got.items():
        np.testing.assert_array_equal(gradient, want[name], err_msg=name)


@variants
def test_stack__matches_its_layers_one_by_one(rng, variant, tmp_path):
    pytest.importorskip("safetensors")
    options = {name: value for name, value in VARIANTS[variant].items() if name != "peepholes"}
    layer = rnnkernels.LSTM.create(4, 6, num_layers=2, bidirectional=True, projection=3, rng=rng, **options)
    assert "P=3" in repr(layer)
    parameters = layer.parameters
    if "peepholes" in VARIANTS[variant]:
        rows = 2 if options.get("coupled") else 3
        for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
            parameters[f"peepholes{suffix}"] = rng.standard_normal((rows, 6)).astype(np.float32)
        layer = rnnkernels.LSTM.from_parameters(parameters, **options)
    assert layer.parameters.keys() == parameters.keys()
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    h0, c0 = (rng.standard_normal((4, 3, width)).astype(np.float32) for width in (3, 6))
    lengths = [5, 2, 4]
    result = layer.forward(x, h0, c0, lengths=lengths)
    assert [a.shape for a in (result.h, *result.state)] == [(3, 5, 6), (4, 3, 3), (4, 3, 6)]
    assert "P=3" in repr(result.cache)

    def part(k, end, inputs):
        names = ("Wx", "Wh", "b", "projection", *(["peepholes"] if "peepholes" in VARIANTS[variant] else []))
        own = {name: parameters[f"{name}_l{k}{end}"] for name in names}
        number, reverse = 2 * k + (end != ""), end != ""
        weights = [own.pop(name) for name in ("Wx", "Wh", "b")]
        return rnnkernels.lstm_forward(
            inputs, h0[number], *weights, c0=c0[number], lengths=lengths, reverse=reverse, **own, **options
        )

    inner = np.concatenate([part(0, end, x).h for end in ("", "_reverse")], axis=-1)
    assert_same_bits(result.h, np.concatenate([part(1, end, inner).h for end in ("", "_reverse")], axis=-1))
    dstate = rnnkernels.LSTMState(np.ones((4, 3, 3), np.float32), np.ones((4, 3, 6), np.float32))
    gradients = layer.backward(np.ones_like(result.h), result.cache, dstate=dstate)
    assert (gradients.dh0.shape, gradients.dc0.shape) == (h0.shape, c0.shape)
    assert {name: g.shape for name, g in gradients.gradients.items()} == {n: p.shape for n, p in parameters.items()}
    layer.save(tmp_path / "layer.safetensors")
    for other in (rnnkernels.LSTM.load(tmp_path / "layer.safetensors"), copy.deepcopy(layer)):
        assert_same_bits(other.forward(x, h0, c0, lengths=lengths).h, result.h)
    layer.replace(projection_l0=np.zeros((6, 3), np.float32))
    assert not np.array_equal(layer.forward(x, h0, c0, lengths=lengths).h, result.h)


@pytest.mark.parametrize(("layers", "both"), [(1, True), (2, False), (2, True)])
@pytest.mark.parametrize("P", [1, 4, 6])
def test_stack__and_all_its_gradients_are_those_of_torch(rng, layers, both, P):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    N, T, D, H, parts = 4, 6, 3, 7, layers * (2 if both else 1)
    module = torch.nn.LSTM(D, H, layers, batch_first=True, bidirectional=both, proj_size=P).double()
    layer = rnnkernels.convert.from_torch(module)
    arrays = {name: rng.standard_normal(shape) for name, shape in (("x", (N, T, D)), ("h0", (parts, N, P)))}
    arrays["c0"] = rng.standard_normal((parts, N, H))
    lengths = np.array([6, 4, 3, 1])
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    packed = torch.nn.utils.rnn.pack_padded_sequence(tensors["x"], torch.from_numpy(lengths), batch_first=True)
    h, (last_h, last_c) = module(packed, (tensors["h0"], tensors["c0"]))
    h, _ = torch.nn.utils.rnn.pad_packed_sequence(h, batch_first=True)
    upstream = [rng.standard_normal(tensor.shape) for tensor in (h, last_h, last_c)]
    torch.autograd.backward([h, last_h, last_c], [torch.from_numpy(d) for d in upstream])

    def assert_like(got, want):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-10, atol=1e-12)

    result = layer.forward(**arrays, lengths=lengths)
    assert_like(result.h, h)
    assert_like(result.state.h, last_h)
    assert_like(result.state.c, last_c)
    gradients = layer.backward(upstream[0], result.cache, dstate=tuple(upstream[1:]))
    for name, tensor in tensors.items():
        assert_like(getattr(gradients, f"d{name}"), tensor.grad)
    of_torch = rnnkernels.convert.to_torch_state(dict(gradients.gradients))
    for name, parameter in module.named_parameters():
        if not name.startswith("bias_hh"):  # its gradient is that of the other bias
            assert_like(of_torch[name], parameter.grad)
    state = rnnkernels.convert.to_torch_state(layer)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    again = rnnkernels.convert.from_torch(module)
    assert repr(again) == repr(layer)
    for name in layer.parameters:
        assert_same_bits(again.parameters[name], layer.parameters[name])


def test_formats_without_projections__refuse_them(rng):
    layer = rnnkernels.LSTM.create(3, 4, projection=2, rng=rng)
    for to in ("to_keras_weights", "to_onnx_tensors", "to_flax_params"):
        with pytest.raises(ValueError, match="`projection` must not be there: no LSTM of"):
            getattr(rnnkernels.convert, to)(layer)
    layer = rnnkernels.LSTM.create(3, 4, projection=2, cell_clip=1.0, rng=rng)
    with pytest.raises(ValueError, match="The LSTM must have neither peepholes nor coupled gates nor a clip"):
        rnnkernels.convert.to_torch_state(layer)
    state = rnnkernels.convert.to_torch_state(rnnkernels.LSTM.create(3, 4, projection=2, rng=rng))
    with pytest.raises(ValueError, match=r"`projection` must have shape \(H, P\)"):
        rnnkernels.convert.from_torch_state({**state, "weight_hr_l0": state["weight_hr_l0"].T})


@variants
def test_streams__have_the_bits_of_the_stack(rng, variant):
    options = {name: value for name, value in VARIANTS[variant].items() if name != "peepholes"}
    layer = rnnkernels.LSTM.create(4, 19, num_layers=2, projection=5, rng=rng, **options)
    x = rng.standard_normal((3, 9, 4)).astype(np.float32)
    want = layer.forward(x)
    stream = layer.stream(batch_size=3)
    assert_same_bits(stream.steps(x), want.h)
    assert_same_bits(stream.state.c, want.state.c)
    assert stream.h.shape == (2, 3, 5)
    assert "P=5" in repr(stream)
    stream.reset(rows=np.array([True, False, True]))
    assert [stream.h[:, row].any() for row in range(3)] == [False, True, False]
    stream.reset(want.state.h, want.state.c)
    state = layer.step(x[:, 0], want.state)
    assert_same_bits(stream.step(x[:, 0]), state.h[-1])
    native = layer.stream(batch_size=3).nopython()
    h = np.zeros((3, 9, 5), np.float32)
    rnnkernels.nopython.advance(native, x, h)
    assert_same_bits(h, want.h)
    rnnkernels.nopython.reset(native)
    rnnkernels.nopython.advance(native, x, h)
    assert_same_bits(h, want.h)
    with pytest.raises(ValueError, match="`x` and `h` must have the shapes"):
        rnnkernels.nopython.advance(native, x, np.zeros((3, 9, 19), np.float32))
    for changed in ({"H": 40}, {"H": 0}, {"H": -1}, {"H": 1 << 62}):
        with pytest.raises(ValueError, match="`stream` must be what `nopython` of a stream returned"):
            rnnkernels.nopython.advance(tuple(part._replace(**changed) for part in native), x, h)
    plain = rnnkernels.LSTM.create(4, 5, rng=rng).stream(batch_size=3).nopython()
    for changed in (5, -1):
        with pytest.raises(ValueError, match="`stream` must be what `nopython` of a stream returned"):
            rnnkernels.nopython.advance(plain._replace(P=changed), x, h)


def test_arguments__that_do_not_fit_are_named(rng):
    (x, h0, Wx, Wh, b), options = make(rng, "plain", 2, 3, 4, 5, 3, np.float32)
    projection = options["projection"]
    cases = [
        ({"projection": projection.T}, r"`projection` must have shape \(H, P\).*pass `projection.T`"),
        ({"projection": projection[:4]}, r"`projection` must have shape \(H, P\) = \(5, 3\) to match `b`"),
        ({"projection": projection[0]}, r"`projection` must have shape \(H, P\), 2 axes"),
        ({"projection": projection[:, :0]}, r"`projection` must have shape \(H, P\) with H >= 1 and P >= 1"),
        ({"projection": projection[:, :2]}, r"`h0` must have shape \(N, P\) = \(2, 2\) to match `x` and `projection`"),
        ({"projection": projection, "c0": h0}, r"`c0` must have shape \(N, H\) = \(2, 5\)"),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            rnnkernels.lstm_forward(x, h0, Wx, Wh, b, **given)
    for given in ({"projection": projection[:, :2]}, {"projection": np.zeros((5, 4), np.float32)}):
        with pytest.raises(ValueError, match=r"`Wh` must have shape \(P, 4H\)"):
            rnnkernels.lstm_forward(x, None, Wx, Wh, b, **given)
        with pytest.raises(ValueError, match=r"`Wh` must have shape \(P, 4H\)"):
            rnnkernels.LSTMStream(Wx, Wh, b, **given)
    with pytest.raises(TypeError, match="`projection` must be left out"):
        rnnkernels.GRU.create(3, 4, projection=2)
    parameters = {"Wx": Wx, "Wh": Wh, "b": b, "projection": projection}
    with pytest.raises(ValueError, match="`parameters` lacks `projection_reverse`"):
        rnnkernels.LSTM.from_parameters({**parameters, "Wx_reverse": Wx, "Wh_reverse": Wh, "b_reverse": b})
    h, cache = rnnkernels.lstm_forward(x, h0, Wx, Wh, b, **options)
    with pytest.raises(ValueError, match=r"`dh` must have shape \(N, T, P\)"):
        rnnkernels.lstm_backward(np.ones((2, 3, 5), np.float32), cache)
    rnnkernels.lstm_backward(h, cache)
    for changed in (projection[:4], projection.astype(np.float64), projection[::-1], None, projection.reshape(-1)):
        cache.projection = changed
        with pytest.raises(ValueError, match="`cache` must be as lstm_forward left it"):
            rnnkernels.lstm_backward(h, cache)


def test_explanation__counts_the_projection():
    N, T, D, H, P = 3, 9, 4, 21, 6
    plan = rnnkernels.explain(N, T, D, H, projection=P, training=True)
    assert (plan.cell, plan.P) == ("lstm_projected", P)
    assert "P=6" in repr(plan)
    assert "P = 6" in str(plan)
    assert plan.passes[0].flops == 2 * N * T * H * (4 * (D + P) + P)
    assert plan.passes[1].flops == 2 * N * T * H * (2 * 4 * (D + P) + 3 * P)
    sizes = rnnkernels._checks.cells.Sizes(N, T, D, H, P)
    dtype = np.dtype(np.float32)
    for costs, make_plan in ((forward_costs, plan_forward), (backward_costs, plan_backward)):
        extra = (True,) if costs is forward_costs else ()
        assert "recur" in costs(sizes, PROJECTED, dtype, make_plan(PROJECTED, sizes, dtype, 1), *extra)
    with pytest.raises(TypeError, match="`projection` must be left out"):
        rnnkernels.explain(N, T, D, H, cell="gru", projection=P)


def test_profile__knows_the_sizes(rng):
    (x, h0, *weights), options = make(rng, "plain", 2, 3, 4, 5, 3, np.float32)
    with rnnkernels.profiling.profile() as profile:
        h, cache = rnnkernels.lstm_forward(x, h0, *weights, **options)
        rnnkernels.lstm_backward(h, cache)
    for call in profile.calls:
        assert call.sizes == {"N": 2, "T": 3, "D": 4, "H": 5, "P": 3}
        assert call.flops > 0
