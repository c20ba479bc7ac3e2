"""Weights from elsewhere: against the published equations, the frameworks themselves, and outputs of trained models.

All weights differ from one another: constant ones hide a wrong order of gates.
"""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

import rnnkernels
from rnnkernels import convert
from rnnkernels.convert import _flax, _form, _keras, _onnx, _torch

DATA = Path(__file__).parent / "data" / "rtneural"
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
KINDS = {"rnn": rnnkernels.RNN, "gru": rnnkernels.GRU, "lstm": rnnkernels.LSTM}
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
FLOAT32_TOLERANCE = {"rtol": 0, "atol": 2e-6}

# Of the frameworks, as their documentation has them; the package has tables of its own.
ORDERS = {
    "torch": {"rnn": "n", "gru": "rzn", "lstm": "ifgo"},
    "keras": {"rnn": "n", "gru": "zrn", "lstm": "ifgo"},
    "onnx": {"rnn": "n", "gru": "zrn", "lstm": "iofg"},
}
FRAMEWORKS = [
    ("torch", True),
    ("keras", True),
    ("keras", False),
    ("onnx", True),
    ("onnx", False),
    ("flax", True),
]
CASES = [
    (framework, reset_after, cell)
    for framework, reset_after in FRAMEWORKS
    for cell in GATES
    if reset_after or cell == "gru"
]


def run_equations(cell, x, gates, reset_after=True):
    """Hidden states by the equations, in plain NumPy; of each gate Wx (D, H), Wh (H, H) and two biases."""
    h = c = np.zeros((len(x), len(gates["n" if "n" in gates else "i"][1])))

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def total(gate, state):
        Wx, Wh, bx, bh = gates[gate]
        return x[:, t] @ Wx + bx + state @ Wh + bh

    steps = []
    for t in range(x.shape[1]):
        if cell == "rnn":
            h = np.tanh(total("n", h))
        elif cell == "lstm":
            i, f, o = (sigmoid(total(gate, h)) for gate in "ifo")
            c = f * c + i * np.tanh(total("g", h))
            h = o * np.tanh(c)
        else:
            r, z = sigmoid(total("r", h)), sigmoid(total("z", h))
            if reset_after:
                Wx, Wh, bx, bh = gates["n"]
                n = np.tanh(x[:, t] @ Wx + bx + r * (h @ Wh + bh))
            else:
                n = np.tanh(total("n", r * h))
            h = (1 - z) * n + z * h
        steps.append(h)
    return np.stack(steps, axis=1)


def make_gates(rng, framework, cell, D, H, reset_after=True):
    """Weights of each gate, with the biases that the framework has; the others are zero."""
    gates = {}
    for gate in {"rnn": "n", "gru": "rzn", "lstm": "ifgo"}[cell]:
        bx, bh = 0.5 * rng.standard_normal((2, H))
        if framework == "keras" and not (cell == "gru" and reset_after):
            bh = np.zeros(H)
        if framework == "flax":
            bx, bh = (np.zeros(H), bh) if cell == "lstm" else (bx, bh if cell == "gru" and gate == "n" else np.zeros(H))
        gates[gate] = rng.standard_normal((D, H)), rng.standard_normal((H, H)), bx, bh
    return gates


def written(framework, cell, gates, reset_after=True):
    """Weights of gates in the form of a framework."""
    if framework == "flax":
        names = {gate: "" if cell == "rnn" else gate for gate in gates}
        params = {f"i{names[gate]}": {"kernel": Wx} for gate, (Wx, _, _, _) in gates.items()}
        params |= {f"h{names[gate]}": {"kernel": Wh} for gate, (_, Wh, _, _) in gates.items()}
        for gate, (_, _, bx, bh) in gates.items():
            if cell != "lstm":
                params[f"i{names[gate]}"]["bias"] = bx
            if cell == "lstm" or (cell, gate) == ("gru", "n"):
                params[f"h{names[gate]}"]["bias"] = bh
        return params
    Wx, Wh, bx, bh = (
        np.concatenate([gates[gate][part] for gate in ORDERS[framework][cell]], axis=-1) for part in range(4)
    )
    if framework == "torch":
        return {"weight_ih_l0": Wx.T, "weight_hh_l0": Wh.T, "bias_ih_l0": bx, "bias_hh_l0": bh}
    if framework == "keras":
        return [Wx, Wh, np.stack([bx, bh]) if cell == "gru" and reset_after else bx]
    return {"W": Wx.T[None], "R": Wh.T[None], "B": np.concatenate([bx, bh])[None]}


def taken(framework, weights):
    """Weights in our form."""
    if framework == "torch":
        return convert.from_torch_state(weights)
    if framework == "keras":
        return convert.from_keras_weights(weights)
    return convert.from_onnx_tensors(**weights) if framework == "onnx" else convert.from_flax_params(weights)


def given(framework, parameters, reset_after=True):
    """Weights in our form, in that of a framework."""
    if framework == "torch":
        return convert.to_torch_state(parameters)
    if framework == "keras":
        return convert.to_keras_weights(parameters, reset_after=reset_after)
    return convert.to_onnx_tensors(parameters) if framework == "onnx" else convert.to_flax_params(parameters)


def make_layer(cell, parameters, reset_after=True):
    return KINDS[cell](**parameters, **({} if reset_after else {"reset_after": False}))


def run_stack(cell, parameters, x, reset_after=True):
    """Hidden states of the last layer, by one call for each layer and direction."""
    for weights in convert.unstack(parameters):
        forward, *backward = _form.directions(weights)
        outputs = [make_layer(cell, forward, reset_after).forward(x).h]
        outputs += [make_layer(cell, own, reset_after).forward(x[:, ::-1]).h[:, ::-1] for own in backward]
        x = np.concatenate(outputs, axis=-1)
    return x


def make_parameters(rng, cell, D, H, layers=1, directions=1, dtype=np.float64):
    """Weights in our form."""
    stack = []
    for _ in range(layers):
        parts = []
        for _ in range(directions):
            columns = GATES[cell] * H
            part = {"Wx": (D, columns), "Wh": (H, columns), "b": (columns,)}
            part |= {"bh": (columns,)} if cell == "gru" else {}
            parts.append({name: rng.standard_normal(shape).astype(dtype) for name, shape in part.items()})
        stack.append(_form.both(*parts))
        D = directions * H
    return convert.stack(*stack)


def assert_same(got, want):
    """Compare nested dicts and lists of arrays, whose names and order count, bit by bit."""
    assert type(got) is type(want)
    if isinstance(want, np.ndarray):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    elif isinstance(want, dict):
        assert set(got) == set(want)
        for name in want:
            assert_same(got[name], want[name])
    else:
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize(("framework", "reset_after", "cell"), CASES)
def test_weights__compute_what_the_equations_of_the_framework_say(rng, framework, reset_after, cell):
    gates, x = make_gates(rng, framework, cell, 3, 5, reset_after), rng.standard_normal((2, 6, 3))
    parameters = taken(framework, written(framework, cell, gates, reset_after))
    h, _ = make_layer(cell, parameters, reset_after).forward(x)
    np.testing.assert_allclose(h, run_equations(cell, x, gates, reset_after), **TOLERANCE)


@pytest.mark.parametrize("framework", ORDERS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_weights__in_any_other_order_of_gates_compute_something_else(rng, monkeypatch, framework, cell):
    gates, x = make_gates(rng, framework, cell, 3, 5), rng.standard_normal((2, 6, 3))
    weights, want = written(framework, cell, gates), run_equations(cell, x, gates)
    table = {"torch": _torch, "keras": _keras, "onnx": _onnx}[framework].GATES
    for order in itertools.permutations(table[cell]):
        monkeypatch.setitem(table, cell, "".join(order))
        h, _ = make_layer(cell, taken(framework, weights)).forward(x)
        assert np.allclose(h, want, **TOLERANCE) == ("".join(order) == ORDERS[framework][cell])


@pytest.mark.parametrize(("framework", "reset_after", "cell"), CASES)
@pytest.mark.parametrize("directions", [1, 2])
def test_weights__there_and_back_are_the_same(rng, framework, reset_after, cell, directions):
    parameters = make_parameters(rng, cell, 3, 5, 1, directions, np.float32)
    if cell == "gru" and framework in ("flax", "keras"):  # which have fewer biases than this package
        for name, bias in parameters.items():
            if name.startswith("bh"):
                bias[: 10 if framework == "flax" else 0 if reset_after else 15] = 0
    there = given(framework, parameters, reset_after)
    back = taken(framework, there)
    assert_same(back, parameters)
    assert_same(given(framework, back, reset_after), there)


@pytest.mark.parametrize("cell", GATES)
def test_torch_state__of_a_stack_comes_back(rng, cell):
    parameters = make_parameters(rng, cell, 3, 4, layers=3, directions=2)
    state = convert.to_torch_state(parameters, prefix="encoder.")
    assert list(state)[:5] == [
        *(f"encoder.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        "encoder.weight_ih_l0_reverse",
    ]
    assert_same(convert.from_torch_state(state | {"decoder.weight": np.ones(2)}, prefix="encoder."), parameters)


def test_results__are_copies(rng):
    for cell in GATES:
        for framework in (*ORDERS, "flax"):
            parameters = make_parameters(rng, cell, 3, 5)
            there = given(framework, parameters)
            back = taken(framework, there)

            def arrays(tree):
                if isinstance(tree, np.ndarray):
                    return [tree]
                values = tree.values() if isinstance(tree, dict) else tree
                return [array for value in values for array in arrays(value)]

            for a, b in itertools.product(arrays(back), arrays(there) + arrays(parameters)):
                assert not np.shares_memory(a, b)
            assert not any(np.shares_memory(a, b) for a, b in itertools.product(arrays(there), arrays(parameters)))


def test_layers__give_their_weights_and_say_where_the_reset_gate_acts(rng):
    layer = rnnkernels.GRU(**make_parameters(rng, "gru", 3, 5), reset_after=False)
    kernel, _, bias = convert.to_keras_weights(layer)
    assert (kernel.shape, bias.shape) == ((3, 15), (15,))
    assert set(convert.to_onnx_tensors(layer)) == {"W", "R", "B"}
    for to in (convert.to_torch_state, convert.to_flax_params):
        with pytest.raises(ValueError, match="`reset_after` must be True"):
            to(layer)
    with pytest.raises(ValueError, match="`reset_after` must be False, as it is of the layer"):
        convert.to_keras_weights(layer, reset_after=True)
    other = rnnkernels.LSTM.create(2, 3, rng=rng)
    assert_same(convert.from_torch_state(convert.to_torch_state(other)), other.parameters)


def test_half_precision__becomes_float32(rng):
    kernel, recurrent = rng.standard_normal((2, 12)), rng.standard_normal((3, 12))
    parameters = convert.from_keras_weights([kernel.astype(np.float16), recurrent.astype(np.float16)])
    assert {array.dtype for array in parameters.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(parameters["Wh"][:, :6], recurrent.astype(np.float16)[:, :6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convert.from_torch_state({"a.weight_hh_l0": 0}), r"`state` must have weight_ih, .*one of 'a.'"),
        (lambda: convert.from_torch_state({}), "layer 0 of `state` must have weight_ih, weight_hh; it has nothing"),
        (
            lambda: convert.from_torch_state({"weight_ih_l0": np.ones((4, 2)), "weight_hh_l0": np.ones((4, 2))}),
            r"`weight_hh.T` must have shape \(H, GH\), where G is 1 or 3 or 4",
        ),
        (
            lambda: convert.from_torch_state(
                {f"weight_{name}_l{k}": np.ones((2, 2)) for name in ("ih", "hh") for k in (0, 2)}
            ),
            "layer 1 of `state` must have weight_ih",
        ),
        (lambda: convert.from_torch_state({"weight_ih": ["a"], "weight_hh": ["b"]}), "`weight_ih` must be of floating"),
        *[
            (
                lambda wrong=wrong: convert.from_torch_state(
                    {
                        **{f"weight_{name}": np.ones((4, 4)) for name in ("ih", "hh")},
                        **{f"bias_{name}": np.ones(4 + (name in wrong)) for name in ("ih", "hh")},
                    }
                ),
                rf"`bias_{wrong[0]}` must have shape \(GH,\) = \(4,\) to match `weight_hh.T`; got \(5,\)",
            )
            for wrong in (["ih"], ["hh"], ["ih", "hh"])
        ],
        (
            lambda: convert.to_torch_state({"Wx": np.ones((1, 2)), "Wh": np.ones((2, 2)), "b": np.ones(3)}),
            r"`b` must have shape \(GH,\) = \(2,\) to match `Wh`",
        ),
        (lambda: convert.from_keras_weights([np.ones((2, 2))]), "arrays in `weights` must be 2 or 3 or 4 or 6; got 1"),
        (lambda: convert.from_keras_weights([np.ones((2, 8)), np.ones(2)]), "`recurrent_kernel` must have 2 axes"),
        (
            lambda: convert.from_flax_params({"if": {}, "in": {}, "hf": {}, "hn": {}}),
            "the parts of `params` must be one",
        ),
        (
            lambda: convert.from_onnx_tensors(np.ones((1, 2, 3)), np.ones((1, 2, 2)), np.ones((1, 2))),
            r"`B` must have shape \(directions, 2GH\) = \(1, 4\)",
        ),
        (lambda: convert.to_torch_state({"Wx": np.ones((1, 1)), "W": 0}), "must be of Wx, Wh, b, bh, .*; got `W`"),
        (lambda: convert.to_torch_state({"Wx": np.ones((1, 1))}), "`parameters` must have Wh, b; it has Wx"),
        (lambda: convert.unstack({"b": 0, "b_l0": 0}), "arrays for `b` of layer 0 must be 1; got 2"),
        (lambda: convert.unstack({"b_l1": 0}), "`parameters` must have layer 0"),
        (lambda: convert.stack(), "one layer at least"),
        (
            lambda: convert.to_keras_weights(make_parameters(np.random.default_rng(0), "rnn", 2, 2, layers=2)),
            "the number of layers for Keras must be 1; got 2. Take them from `convert.unstack`",
        ),
    ],
)
def test_mistakes__are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def read_columns(name):
    return np.loadtxt(DATA / f"{name}_python.csv", dtype=np.float32).reshape(1, -1, 1)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_published_model_of_keras__gives_its_published_output(name):
    x = read_columns(f"{name}_x")
    activations = {"tanh": np.tanh, "sigmoid": rnnkernels.sigmoid, "": lambda z: z}
    for layer in json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))["layers"]:
        weights = [np.array(array, np.float32) for array in layer["weights"]]
        if layer["type"] in KINDS:
            x = make_layer(layer["type"], convert.from_keras_weights(weights)).forward(x).h
        else:
            x = activations[layer["activation"]](x @ weights[0] + weights[1])
    np.testing.assert_allclose(x, read_columns(f"{name}_y"), **FLOAT32_TOLERANCE)


def test_published_model_of_torch__gives_its_published_output():
    state = json.loads((DATA / "lstm_torch.json").read_text(encoding="utf-8"))
    state = {name: np.array(array, np.float32) for name, array in state.items()}
    x = read_columns("lstm_torch_x")
    for prefix in ("lstm.", "lstm2."):
        x = run_stack("lstm", convert.from_torch_state(state, prefix=prefix), x)
    x = x @ state["dense.weight"].T + state["dense.bias"]
    np.testing.assert_allclose(x, read_columns("lstm_torch_y"), **FLOAT32_TOLERANCE)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (1, True, False), (3, True, True)])
def test_module_of_torch__is_matched_both_ways(rng, cell, layers, bidirectional, bias):
    torch = pytest.importorskip("torch")
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    settings = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "batch_first": True}
    module, x = kind(3, 5, **settings).double(), rng.standard_normal((2, 7, 3))
    with torch.no_grad():
        want = module(torch.from_numpy(x))[0].numpy()
    parameters = convert.from_torch_state(module.state_dict())
    np.testing.assert_allclose(run_stack(cell, parameters, x), want, **TOLERANCE)
    if layers == 1 and not bidirectional:
        np.testing.assert_allclose(convert.from_torch(module).forward(x).h, want, **TOLERANCE)

    other = kind(3, 5, **{**settings, "bias": True}).double()
    state = convert.to_torch_state(parameters)
    other.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    with torch.no_grad():
        np.testing.assert_allclose(other(torch.from_numpy(x))[0].numpy(), want, **TOLERANCE)


def test_modules_of_torch__of_all_kinds_are_read(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3))
    for name, kind in KINDS.items():
        module = getattr(torch.nn, f"{name.upper()}Cell")(3, 4).double()
        layer = convert.from_torch(torch.nn.ModuleDict({"a": module}), prefix="a.")
        assert type(layer) is kind
        with torch.no_grad():
            want = module(torch.from_numpy(x))
        np.testing.assert_allclose(layer.step(x).h, (want[0] if name == "lstm" else want).numpy(), **TOLERANCE)
    half = torch.nn.LSTM(3, 4).to(torch.bfloat16)
    layer = convert.from_torch(half)
    np.testing.assert_array_equal(layer.parameters["Wh"][:, :8].T, half.weight_hh_l0.detach().float().numpy()[:8])
    with pytest.raises(TypeError, match="`weight_ih` must be of floating-point numbers; got int8"):
        convert.from_torch({"weight_ih": torch.ones((4, 2), dtype=torch.int8), "weight_hh": torch.ones((4, 1))})


def test_modules_of_torch__with_relu_are_read(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 6, 3))
    module = torch.nn.RNN(3, 4, num_layers=2, nonlinearity="relu", batch_first=True).double()
    cell = torch.nn.RNNCell(3, 4, nonlinearity="relu").double()
    with torch.no_grad():
        want, of_cell = module(torch.from_numpy(x))[0].numpy(), cell(torch.from_numpy(x[:, 0])).numpy()
    np.testing.assert_allclose(convert.from_torch(module).forward(x).h, want, **TOLERANCE)
    np.testing.assert_allclose(convert.from_torch(cell).step(x[:, 0]).h, of_cell, **TOLERANCE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda nn: nn.Linear(2, 3), "the module must be one of RNN, LSTM.* got Linear"),
    ],
)
def test_modules_of_torch__that_compute_something_else_are_refused(make, message):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=message):
        convert.from_torch(make(torch.nn))


def test_safetensors__are_read_by_prefix(rng, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    parameters = make_parameters(rng, "gru", 3, 4, dtype=np.float32)
    state = convert.to_torch_state(parameters, prefix="encoder.gru.")
    numpy.save_file({**state, "decoder.weight": np.ones(3, np.int8)}, tmp_path / "model.safetensors")
    layer = convert.from_safetensors(tmp_path / "model.safetensors", prefix="encoder.gru.")
    assert_same(layer.parameters, parameters)
    with pytest.raises(ValueError, match=r"Pass `prefix`, one of 'encoder.gru.'"):
        convert.from_safetensors(tmp_path / "model.safetensors")


def test_safetensors__of_nothing_are_refused(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ValueError, match=r"`path` must name a safetensors file with the names of PyTorch; .*header"):
        convert.from_safetensors(path)


@pytest.fixture
def keras():
    if "KERAS_BACKEND" not in os.environ:
        pytest.importorskip("jax")
        os.environ["KERAS_BACKEND"] = "jax"
    return pytest.importorskip("keras")


class Layer:
    """As much of a layer of Keras as is read."""

    def __init__(self, weights, **config):
        self._weights, self._config = weights, config

    def get_weights(self):
        """List of arrays."""
        return self._weights

    def get_config(self):
        """What the layer was made with."""
        return self._config


def keras_layer(kind, weights, **config):
    return type(kind, (Layer,), {})(weights, **config)


@pytest.mark.parametrize("reset_after", [True, False])
def test_layer_of_keras__is_read_by_its_configuration(rng, reset_after):
    gates, x = make_gates(rng, "keras", "gru", 3, 5, reset_after), rng.standard_normal((2, 6, 3))
    weights = written("keras", "gru", gates, reset_after)
    config = {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": reset_after}
    want = run_equations("gru", x, gates, reset_after)
    for layer in (
        keras_layer("GRU", weights, go_backwards=False, **config),
        keras_layer("RNN", weights, cell={"class_name": "GRUCell", "config": config}, go_backwards=False),
    ):
        np.testing.assert_allclose(convert.from_keras(layer).forward(x).h, want, **TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("LSTM", {"activation": "relu"}, "`activation` of LSTM must be 'tanh'.*got 'relu'"),
        ("GRU", {"recurrent_activation": "hard_sigmoid"}, "`recurrent_activation` of GRU must be 'sigmoid'"),
        ("SimpleRNN", {"go_backwards": True}, "`go_backwards` of SimpleRNN must be False"),
        ("Bidirectional", {"merge_mode": "sum", "layer": {}}, "`merge_mode` of Bidirectional must be 'concat'"),
        ("Dense", {}, "the layer of Keras must be one of SimpleRNN.* got Dense"),
        ("TimeDistributed", {"layer": {}}, "must be one of Bidirectional, RNN; got TimeDistributed"),
        (
            "RNN",
            {"cell": {"class_name": "StackedRNNCells", "config": {}}},
            "the layer of Keras must be one of SimpleRNN.* got StackedRNNCells",
        ),
    ],
)
def test_layers_of_keras__that_compute_something_else_are_refused(kind, config, message):
    with pytest.raises(ValueError, match=message):
        convert.from_keras(keras_layer(kind, [], **config))


DIFFERENT = [
    ("SimpleRNN", {"activation": "relu"}, {"activation": "tanh"}, "activation"),
    ("SimpleRNN", {"activation": "tanh"}, {"activation": "relu"}, "activation"),
    ("SimpleRNN", {}, {"activation": "relu"}, "activation"),
    ("GRU", {"reset_after": True}, {"reset_after": False}, "reset_after"),
    ("GRU", {"reset_after": False}, {"reset_after": True}, "reset_after"),
    ("GRU", {"reset_after": False}, {}, "reset_after"),
]


@pytest.mark.parametrize(("kind", "first", "second", "name"), DIFFERENT)
def test_parts_of_keras__that_differ_are_refused(rng, kind, first, second, name):
    default = {"activation": "tanh", "reset_after": True}[name]
    a, b = first.get(name, default), second.get(name, default)
    layers = [keras_layer(kind, [], **config) for config in (first, second)]
    with pytest.raises(ValueError, match=rf"`{name}` must be .* got {a!r} of layers\[0\], {b!r} of layers\[1\]"):
        convert.from_keras(*layers)
    inner = {
        key: {"class_name": kind, "config": {**config, "go_backwards": key != "layer"}}
        for key, config in (("layer", first), ("backward_layer", second))
    }
    message = rf"got {a!r} of layers\[0\].forward_layer, {b!r} of layers\[0\].backward_layer"
    with pytest.raises(ValueError, match=message):
        convert.from_keras(keras_layer("Bidirectional", [], merge_mode="concat", **inner))
    with pytest.raises(ValueError, match=r"`class` must be .* got 'LSTM' of layers\[0\], .* of layers\[1\]"):
        convert.from_keras(keras_layer("LSTM", []), layers[1])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras with arrays of JAX
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
def test_bidirectional_cells_of_keras__compute_the_same(rng, keras, kind):
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    cell = getattr(keras.layers, f"{kind}Cell")(4, bias_initializer="random_normal")
    layer = keras.layers.Bidirectional(keras.layers.RNN(cell, return_sequences=True))
    want = np.asarray(layer(x))
    np.testing.assert_allclose(convert.from_keras(layer).forward(x).h, want, **FLOAT32_TOLERANCE)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_bidirectional_layer_of_keras__of_two_activations_is_refused(rng, keras):
    make = keras.layers.SimpleRNN
    back = make(4, activation="relu", go_backwards=True, return_sequences=True)
    layer = keras.layers.Bidirectional(make(4, return_sequences=True), backward_layer=back)
    layer(np.zeros((2, 6, 3), np.float32))
    with pytest.raises(ValueError, match=r"got 'tanh' of .*forward_layer, 'relu' of .*backward_layer"):
        convert.from_keras(layer)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras with arrays of JAX
@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU", "GRU reset before"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_layer_of_keras__computes_the_same(rng, keras, kind, use_bias):
    options = {"reset_after": False} if kind.endswith("before") else {}
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    make = getattr(keras.layers, kind.split()[0])
    layer = make(5, return_sequences=True, use_bias=use_bias, bias_initializer="random_normal", **options)
    want = np.asarray(layer(x))
    ours = convert.from_keras(layer)
    np.testing.assert_allclose(ours.forward(x).h, want, **FLOAT32_TOLERANCE)

    both = keras.layers.Bidirectional(make(4, return_sequences=True, bias_initializer="random_normal", **options))
    want = np.asarray(both(x))
    cell = type(ours).__name__.lower()
    parameters = convert.from_keras_weights(both.get_weights())
    np.testing.assert_allclose(run_stack(cell, parameters, x, not options), want, **FLOAT32_TOLERANCE)
    both.set_weights(convert.to_keras_weights(parameters, reset_after=not options))
    np.testing.assert_array_equal(np.asarray(both(x)), want)
    np.testing.assert_allclose(convert.from_keras(both).forward(x).h, want, **FLOAT32_TOLERANCE)


@pytest.mark.parametrize("kind", ["SimpleCell", "GRUCell", "LSTMCell", "OptimizedLSTMCell"])
def test_cell_of_flax__computes_the_same(rng, kind):
    jax, nn = pytest.importorskip("jax"), pytest.importorskip("flax.linen")
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    forth, back = (nn.RNN(getattr(nn, kind)(5, bias_init=nn.initializers.normal(0.5))) for _ in range(2))
    for module in (forth, nn.Bidirectional(forth, back)):
        params = module.init(jax.random.key(1), x)
        want = np.asarray(module.apply(params, x))
        parameters = convert.from_flax_params(params)
        cell = {"SimpleCell": "rnn", "GRUCell": "gru"}.get(kind, "lstm")
        np.testing.assert_allclose(run_stack(cell, parameters, x), want, **FLOAT32_TOLERANCE)
        own = convert.to_flax_params(parameters)
        own = {"params": own if "forward_rnn" in own else {"cell": own}}
        assert jax.tree.structure(own) == jax.tree.structure(jax.tree.map(np.asarray, params))
        np.testing.assert_allclose(np.asarray(module.apply(own, x)), want, rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        convert.from_flax(forth.init(jax.random.key(2), x)).forward(x).h,
        np.asarray(forth.apply(forth.init(jax.random.key(2), x), x)),
        **FLOAT32_TOLERANCE,
    )


def test_flax_parts__have_the_biases_of_flax():
    params = convert.to_flax_params(rnnkernels.GRU.create(3, 2))
    assert {part for part, arrays in params.items() if "bias" in arrays} == {*_flax.BIASED["gru"]}
