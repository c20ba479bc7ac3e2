"""ONNX models as a whole, and their nodes, against ONNX Runtime, with weights that all differ."""

import itertools

import numpy as np
import pytest

import rnnkernels
from rnnkernels import _graph, convert

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TOLERANCE = {"rtol": 0, "atol": 2e-6}
NODES = [(op, 0) for op in GATES] + [("GRU", 1)]


def make_model(nodes, inputs, outputs, tensors, opset=17):
    """A model; inputs and outputs are shapes by name, tensors initializers by name."""
    element = {"f": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.INT64}
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [
            onnx.helper.make_tensor_value_info(name, element["i" if name == "indices" else "f"], shape)
            for name, shape in inputs.items()
        ],
        [onnx.helper.make_tensor_value_info(name, element["f"], shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def run_elsewhere(model, inputs):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def make_tensors(rng, op, D, H, directions):
    rows = GATES[op] * H
    shapes = {"W": (directions, rows, D), "R": (directions, rows, H), "B": (directions, 2 * rows)}
    return {name: 0.5 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def make_recurrent(rng, op, direction="forward", T=6, N=2, D=3, H=5, inputs="X W R B", opset=17, **attributes):
    """A model of one recurrent node, with all outputs and the tensors that `inputs` names."""
    directions = 2 if direction == "bidirectional" else 1
    names = inputs.split()
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    node = onnx.helper.make_node(
        op, [name.strip("-") for name in names], outputs, name="it", direction=direction, hidden_size=H, **attributes
    )
    tensors = {name: tensor for name, tensor in make_tensors(rng, op, D, H, directions).items() if name in names}
    x = rng.standard_normal((T, N, D)).astype(np.float32)
    states = {
        name: rng.standard_normal((directions, N, H)).astype(np.float32) for name in ("h0", "c0") if name in names
    }
    given = {"X": x, **states}
    shapes = {"X": ("steps", "batch", D), **{name: state.shape for name, state in states.items()}}
    return make_model([node], shapes, dict.fromkeys(outputs), tensors, opset), given


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op", "linear_before_reset"), NODES)
@pytest.mark.parametrize("is_plain", [True, False], ids=["without states and biases", "with all"])
def test_recurrent_node__computes_what_the_runtime_does(rng, op, linear_before_reset, direction, is_plain):
    attributes = {"linear_before_reset": linear_before_reset} if op == "GRU" else {}
    inputs = "X W R" if is_plain else f"X W R B - h0{' c0' if op == 'LSTM' else ''}"
    model, given = make_recurrent(rng, op, direction, inputs=inputs, **attributes)
    got = rnnkernels.onnx.load(model).run(given)
    for name, want in zip(got, run_elsewhere(model, given), strict=True):
        assert got[name].dtype == want.dtype
        np.testing.assert_allclose(got[name], want, err_msg=name, **TOLERANCE)


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_recurrent_node__in_another_order_of_gates_computes_something_else(rng, monkeypatch, op):
    model, given = make_recurrent(rng, op)
    want, *_ = run_elsewhere(model, given)
    from rnnkernels.convert import _onnx

    right = _onnx.GATES[op.lower()]
    for order in map("".join, itertools.permutations(right)):
        monkeypatch.setitem(_onnx.GATES, op.lower(), order)
        assert np.allclose(rnnkernels.onnx.load(model).run(given)["Y"], want, atol=1e-5) == (order == right)


@pytest.mark.parametrize(("op", "linear_before_reset"), NODES)
def test_weights__in_a_node_compute_what_the_layer_does(rng, op, linear_before_reset):
    options = {"reset_after": bool(linear_before_reset)} if op == "GRU" else {}
    layer = getattr(rnnkernels, op).create(3, 5, rng=rng, **options)
    attributes = {"linear_before_reset": linear_before_reset} if op == "GRU" else {}
    node = onnx.helper.make_node(op, ["X", "W", "R", "B"], ["Y"], hidden_size=5, **attributes)
    model = make_model([node], {"X": (None, None, 3)}, {"Y": None}, convert.to_onnx_tensors(layer))
    x = rng.standard_normal((2, 6, 3)).astype(np.float32)
    (want,) = run_elsewhere(model, {"X": x.swapaxes(0, 1)})
    np.testing.assert_allclose(layer.forward(x).h, want[:, 0].swapaxes(0, 1), **TOLERANCE)

    back = convert.from_onnx(model)
    assert type(back) is type(layer)
    np.testing.assert_allclose(back.forward(x).h, layer.forward(x).h, rtol=0, atol=1e-6)


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_layout__moves_the_batch_to_the_front(rng, direction):
    seed = int(rng.integers(1000))
    inputs = "X W R B - h0 c0"
    usual, given = make_recurrent(np.random.default_rng(seed), "LSTM", direction, inputs=inputs)
    other, _ = make_recurrent(np.random.default_rng(seed), "LSTM", direction, inputs=inputs, layout=1)
    for value in other.graph.input:
        value.type.tensor_type.ClearField("shape")
    want = rnnkernels.onnx.load(usual).run(given)
    got = rnnkernels.onnx.load(other).run({name: np.swapaxes(array, 0, 1) for name, array in given.items()})
    np.testing.assert_array_equal(got["Y"], want["Y"].transpose(2, 0, 1, 3))
    for name in ("Y_h", "Y_c"):
        np.testing.assert_array_equal(got[name], want[name].swapaxes(0, 1))


def test_default_activations_and_zero_peepholes__are_taken(rng):
    activations = ["sigmoid", "Tanh", "tanh"]
    model, given = make_recurrent(rng, "LSTM", "bidirectional", activations=activations * 2)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    attributes = plain.graph.node[0].attribute
    attributes.pop([attribute.name for attribute in attributes].index("activations"))
    model.graph.node[0].input.extend(["", "", "", "P"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((2, 15), np.float32), "P"))
    got = rnnkernels.onnx.load(model).run(given)
    np.testing.assert_allclose(got["Y"], run_elsewhere(plain, given)[0], **TOLERANCE)


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("RNN", {"activations": ["Elu"]}, r"`activations` of the RNN node 'it' must be .*; got \['Elu'\]"),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Affine"]}, "`activations` of the LSTM node 'it'"),
        ("LSTM", {"activations": ["Relu"]}, r"must be \['Sigmoid', 'Tanh', 'Tanh'\], since .*; got \['Relu'\]"),
        ("GRU", {"activations": ["Relu"]}, r"must be \['Sigmoid', 'Tanh'\], since .*; got \['Relu'\]"),
        ("GRU", {"activations": ["Sigmoid", "Tanh", "Tanh"]}, "`activations` of the GRU node 'it' must be"),
        *[
            (
                "RNN",
                {"direction": "bidirectional", "activations": activations},
                r"must be \['Tanh', 'Tanh'\] or \['Relu', 'Relu'\]",
            )
            for activations in (["Sigmoid", "Tanh"], ["Relu", "Tanh"], ["Tanh", "Relu"], ["Relu"])
        ],
        ("LSTM", {"clip": -3.0}, "`clip` must be positive"),
        ("LSTM", {"input_forget": 2}, "`input_forget` of the LSTM node 'it' must be 0 or 1"),
    ],
)
def test_nodes__that_compute_something_else_are_refused(rng, op, attributes, message):
    model, _ = make_recurrent(rng, op, **attributes)
    for read in (rnnkernels.onnx.load, convert.from_onnx):
        with pytest.raises(ValueError, match=message):
            read(model)


@pytest.mark.parametrize(("op", "weights_of"), [*itertools.permutations(GATES, 2)])
def test_cell__is_that_of_the_operator(rng, op, weights_of):
    model, _ = make_recurrent(rng, weights_of)
    model.graph.node[0].op_type = op
    message = rf"`R` must have shape .* = \(1, {5 * GATES[op]}, 5\) to match the {op} node 'it'; got"
    for read in (rnnkernels.onnx.load, convert.from_onnx):
        with pytest.raises(ValueError, match=message):
            read(model)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("name", ["h0", "c0"])
def test_states__of_another_batch_are_refused(rng, name, layout):
    model, given = make_recurrent(rng, "LSTM", "bidirectional", inputs="X W R B - h0 c0", layout=layout)
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    loaded = rnnkernels.onnx.load(model)
    given = {key: np.swapaxes(array, 0, 1) if layout else array for key, array in given.items()}
    given[name] = given[name].take([0], 1 - layout)
    order = r"\(N, directions, H\) = \(2, 2, 5\)" if layout else r"\(directions, N, H\) = \(2, 2, 5\)"
    with pytest.raises(ValueError, match=f"`initial_{name[0]}` must have shape {order} to match .* node 'it'"):
        loaded.run(given)


@pytest.mark.parametrize("op", GATES)
def test_half_precision__is_computed_in_single(rng, op):
    inputs = f"X W R B - h0{' c0' if op == 'LSTM' else ''}"
    model, given = make_recurrent(rng, op, "bidirectional", inputs=inputs)
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["Y"], ["z"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for value in half.graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for single, tensor in zip(model.graph.initializer, half.graph.initializer, strict=True):
        array = onnx.numpy_helper.to_array(single).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, single.name))
        single.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), single.name))
    given = {name: array.astype(np.float16) for name, array in given.items()}
    got = rnnkernels.onnx.load(half).run(given)
    want = rnnkernels.onnx.load(model).run(given)
    for name in set(want) - {"z"}:
        assert got[name].dtype == np.float16
        np.testing.assert_array_equal(got[name], want[name].astype(np.float16))
    assert got["z"].dtype == np.float16
    np.testing.assert_allclose(got["z"], want["z"], rtol=0, atol=1e-3)
    elsewhere = run_elsewhere(model, {name: array.astype(np.float32) for name, array in given.items()})
    np.testing.assert_allclose(got["Y"], elsewhere[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("attributes", [{}, {"input_forget": 1}])
@pytest.mark.parametrize("has_peepholes", [False, True])
def test_variants_of_lstm__compute_what_the_runtime_does(rng, direction, attributes, has_peepholes):
    inputs = "X W R B lengths h0 c0" + " P" * has_peepholes
    model, given = make_recurrent(rng, "LSTM", direction, inputs=inputs, **attributes)
    model.graph.input.append(onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, (2,)))
    given["lengths"] = np.array([6, 4], np.int32)
    if has_peepholes:
        P = rng.standard_normal((2 if direction == "bidirectional" else 1, 15)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(P, "P"))
    for got, want in zip(rnnkernels.onnx.load(model).run(given).values(), run_elsewhere(model, given), strict=True):
        np.testing.assert_allclose(got, want, **TOLERANCE)


@pytest.mark.parametrize("clip", [0.1, 4.0])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("RNN", {}),
        ("RNN", {"activations": ["Relu"]}),
        *[("GRU", {"linear_before_reset": way}) for way in (0, 1)],
        *[("LSTM", {"input_forget": way}) for way in (0, 1)],
    ],
)
def test_clip__computes_what_the_runtime_does(rng, op, attributes, direction, clip):
    if direction == "bidirectional" and "activations" in attributes:
        attributes = {"activations": 2 * attributes["activations"]}
    model, given = make_recurrent(rng, op, direction, inputs="X W R B - h0", clip=clip, **attributes)
    given["X"] = 3 * given["X"]
    model.graph.node[0].input.extend([""] * 2 * (op == "LSTM"))
    if op == "LSTM":
        P = rng.standard_normal((2 if direction == "bidirectional" else 1, 15)).astype(np.float32)
        model.graph.node[0].input[7] = "P"
        model.graph.initializer.append(onnx.numpy_helper.from_array(P, "P"))
    got = rnnkernels.onnx.load(model).run(given)["Y"]
    np.testing.assert_allclose(got, run_elsewhere(model, given)[0], **TOLERANCE)
    attribute = next(each for each in model.graph.node[0].attribute if each.name == "clip")
    attribute.f = 100.0
    assert np.abs(rnnkernels.onnx.load(model).run(given)["Y"] - got).max() > 1e-4


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_relu__computes_what_the_runtime_does(rng, direction):
    activations = ["Relu"] * (2 if direction == "bidirectional" else 1)
    model, given = make_recurrent(rng, "RNN", direction, activations=activations)
    np.testing.assert_allclose(rnnkernels.onnx.load(model).run(given)["Y"], run_elsewhere(model, given)[0], **TOLERANCE)


def test_layer_of_a_node__has_its_peepholes(rng):
    model, given = make_recurrent(rng, "LSTM", inputs="X W R B - - - P", input_forget=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal((1, 15)).astype(np.float32), "P"))
    layer = convert.from_onnx(model)
    assert layer.parameters["peepholes"].shape == (2, 5)
    got = layer.forward(given["X"].swapaxes(0, 1)).h
    np.testing.assert_allclose(got, run_elsewhere(model, given)[0][:, 0].swapaxes(0, 1), **TOLERANCE)
    with pytest.raises(ValueError, match="The LSTM must have neither peepholes nor coupled gates nor a clip"):
        convert.to_onnx_tensors(layer)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_lengths__are_those_of_the_node(rng, op, direction):
    model, given = make_recurrent(rng, op, direction, inputs="X W R B lengths")
    model.graph.input.append(onnx.helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, (2,)))
    loaded = rnnkernels.onnx.load(model)
    for lengths in ([6, 6], [6, 4], [2, 6]):
        given["lengths"] = np.array(lengths, np.int32)
        for got, want in zip(loaded.run(given).values(), run_elsewhere(model, given), strict=True):
            np.testing.assert_allclose(got, want, **TOLERANCE)


def make_text_model(rng, opset=17):
    """Embedding, bidirectional LSTM, dense layer, reversed GRU with its last state, softmax."""
    make, tensors = onnx.helper.make_node, {}
    for op, k, D, H, directions in (("LSTM", 1, 4, 5, 2), ("GRU", 2, 6, 3, 1)):
        tensors |= {f"{name}{k}": value for name, value in make_tensors(rng, op, D, H, directions).items()}
    tensors |= {
        "table": rng.standard_normal((9, 4)).astype(np.float32),
        "dense": rng.standard_normal((10, 6)).astype(np.float32),
        "offset": rng.standard_normal(6).astype(np.float32),
        "matrix": rng.standard_normal((7, 3)).astype(np.float32),
        "vector": rng.standard_normal(7).astype(np.float32),
        "joined": np.array([0, 0, -1]),
        "first": np.array([0]),
    }
    nodes = [
        make("Gather", ["table", "indices"], ["embedded"]),
        make("Transpose", ["embedded"], ["x"], perm=[1, 0, 2]),
        make("LSTM", ["x", "W1", "R1", "B1"], ["y1"], hidden_size=5, direction="bidirectional", name="encoder"),
        make("Transpose", ["y1"], ["y2"], perm=[0, 2, 1, 3]),
        make("Reshape", ["y2", "joined"], ["y3"]),
        make("MatMul", ["y3", "dense"], ["y4"]),
        make("Add", ["y4", "offset"], ["y5"]),
        make("Relu", ["y5"], ["y6"]),
        make("GRU", ["y6", "W2", "R2", "B2"], ["", "last"], hidden_size=3, direction="reverse"),
        make("Squeeze", ["last", "first"], ["z"]) if opset >= 13 else make("Squeeze", ["last"], ["z"], axes=[0]),
        make("Gemm", ["z", "matrix", "vector"], ["scores"], transB=1, alpha=0.5),
        make("Softmax", ["scores"], ["p"], axis=1),
    ]
    return make_model(nodes, {"indices": ("batch", "steps")}, {"p": ("batch", 7), "y5": None}, tensors, opset)


@pytest.mark.parametrize("opset", [11, 17])
def test_model__runs_as_a_whole(rng, tmp_path, opset):
    model = make_text_model(rng, opset)
    onnx.save(model, tmp_path / "model.onnx")
    loaded = rnnkernels.onnx.load(tmp_path / "model.onnx")
    assert (loaded.inputs, loaded.outputs) == (("indices",), ("p", "y5"))
    for shape in ((1, 1), (3, 8)):
        indices = rng.integers(0, 9, shape)
        for got, want in zip(loaded(indices), run_elsewhere(model, {"indices": indices}), strict=True):
            np.testing.assert_allclose(got, want, **TOLERANCE)
    named = loaded.run({"indices": indices.astype(np.int32)})
    np.testing.assert_array_equal(named["p"], loaded(indices)[0])

    with pytest.raises(ValueError, match=r"nodes must be 1; got 2. Pass `node`, one of 'encoder', 1"):
        convert.from_onnx(model)
    with pytest.raises(ValueError, match="the model must have decoder; it has 0, encoder, 1"):
        convert.from_onnx(model, node="decoder")
    with pytest.raises(
        ValueError, match=r"`direction` of the GRU node .* which a layer alone does not. `rnnkernels.onnx"
    ):
        convert.from_onnx(model, node=1)


def test_inputs__that_do_not_fit_are_named(rng):
    loaded = rnnkernels.onnx.load(make_text_model(rng))
    with pytest.raises(TypeError, match="`indices` must be of int64; got float64"):
        loaded([[0.5]])
    with pytest.raises(ValueError, match=r"`indices` must have shape \(batch, steps\), 2 axes; got shape \(1,\)"):
        loaded([1])
    with pytest.raises(ValueError, match=r"the number of inputs must be 1; got 2. They are indices"):
        loaded([1], [2])
    with pytest.raises(ValueError, match="the inputs must be of indices; got `index`"):
        loaded.run({"index": 1})
    with pytest.raises(ValueError, match="the inputs must have indices; it has nothing"):
        loaded.run({})


def test_nodes__that_cannot_run_are_named(rng):
    model, _ = make_recurrent(rng, "LSTM")
    model.graph.node.append(onnx.helper.make_node("Conv", ["Y", "W"], ["z"], name="filter"))
    model.graph.node.append(onnx.helper.make_node("FusedGelu", ["Y"], ["u"], domain="com.example"))
    with pytest.raises(
        ValueError, match=r"cannot run here: the Conv node 'filter', the com.example.FusedGelu node with the output 'u'"
    ):
        rnnkernels.onnx.load(model)
    assert isinstance(convert.from_onnx(model), rnnkernels.LSTM)

    model, _ = make_recurrent(rng, "LSTM")
    model.graph.node.append(onnx.helper.make_node("Softmax", ["Y"], ["z"], surprise=1))
    with pytest.raises(ValueError, match=r"the attributes of the Softmax node .* must be of axis; got `surprise`"):
        rnnkernels.onnx.load(model)


def test_values__that_nothing_gives_are_named(rng):
    values = onnx.numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "S")
    sparse = onnx.helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(ints(0, 3), "at"), [4])
    model = make_model([onnx.helper.make_node("Add", ["x", "S"], ["y"])], {"x": (2, 4)}, {"y": None}, {})
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(ValueError, match=r"the inputs of the Add node .*; `S` does not. A sparse initializer cannot"):
        rnnkernels.onnx.load(model)
    model = make_model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 4)}, {"y": None, "z": None}, {})
    with pytest.raises(ValueError, match=r"the outputs of the model must come from .*; `z` does not"):
        rnnkernels.onnx.load(model)


def test_empty_file__is_no_model(tmp_path):
    (tmp_path / "model.onnx").touch()
    for read in (rnnkernels.onnx.load, convert.from_onnx):
        with pytest.raises(ValueError, match=r"must have an output at least; it has nothing. Is `source` a"):
            read(tmp_path / "model.onnx")


def test_weights__that_are_not_constant_are_refused(rng):
    model, _ = make_recurrent(rng, "LSTM")
    model.graph.initializer.pop()
    model.graph.input.append(onnx.helper.make_tensor_value_info("B", onnx.TensorProto.FLOAT, (1, 40)))
    with pytest.raises(ValueError, match="the constant inputs of the LSTM node 'it' must have B; it has W, R"):
        rnnkernels.onnx.load(model)


def test_weights__may_follow_from_constants(rng):
    model, given = make_recurrent(rng, "LSTM", inputs="X W R")
    (at,) = [k for k, tensor in enumerate(model.graph.initializer) if tensor.name == "R"]
    recurrent = onnx.numpy_helper.to_array(model.graph.initializer.pop(at))
    half = onnx.helper.make_node("Constant", [], ["half"], value=onnx.numpy_helper.from_array(recurrent / 2))
    model.graph.node.insert(0, half)
    model.graph.node.insert(1, onnx.helper.make_node("Add", ["half", "half"], ["R"]))
    loaded = rnnkernels.onnx.load(model)
    np.testing.assert_allclose(loaded.run(given)["Y"], run_elsewhere(model, given)[0], **TOLERANCE)


def ints(*values):
    return np.array(values, np.int64)


OPERATIONS = [
    ("Add", 17, {}, []),
    ("Sub", 17, {}, []),
    ("Mul", 17, {}, []),
    ("Div", 17, {}, []),
    ("Sigmoid", 17, {}, []),
    ("Tanh", 17, {}, []),
    ("Relu", 17, {}, []),
    ("Identity", 17, {}, []),
    ("Softmax", 17, {}, []),
    ("Softmax", 17, {"axis": 1}, []),
    ("Softmax", 11, {}, []),
    ("Softmax", 11, {"axis": 2}, []),
    ("LogSoftmax", 17, {"axis": -2}, []),
    ("LogSoftmax", 11, {}, []),
    ("Transpose", 17, {}, []),
    ("Transpose", 17, {"perm": [1, 2, 0]}, []),
    ("Unsqueeze", 11, {"axes": [0, 3]}, []),
    ("Unsqueeze", 17, {}, [ints(0, -1)]),
    ("Flatten", 17, {}, []),
    ("Flatten", 17, {"axis": -1}, []),
    ("Flatten", 17, {"axis": 0}, []),
    ("Reshape", 17, {}, [ints(0, -1)]),
    ("Reshape", 17, {}, [ints(4, 3, 2)]),
    ("Concat", 17, {"axis": -1}, [np.ones((2, 3, 1), np.float32)]),
    ("Slice", 17, {}, [ints(1), ints(9)]),
    ("Slice", 17, {}, [ints(-1, 0), ints(-9, -1), ints(2, 1), ints(-2, 1)]),
    ("Slice", 17, {}, [ints(3), ints(-(2**63)), ints(2), ints(-1)]),
    ("Slice", 17, {}, [ints(0), ints(2**63 - 1), ints(-1), ints(3)]),
    *[
        ("Slice", 17, {}, [ints(start), ints(end), ints(2), ints(step)])
        for start in (-(2**63), -5, -4)
        for end in (-(2**63), -5, -4, 2)
        for step in (-2, -1, 1)
    ],
    ("Slice", 9, {"starts": [1], "ends": [3], "axes": [2]}, []),
    ("Gather", 17, {"axis": 2}, [ints(-1, 0)]),
    ("Gather", 17, {"axis": 1}, [np.array(2)]),
    ("Expand", 17, {}, [ints(5, 1, 1, 4)]),
    ("Cast", 17, {"to": onnx.TensorProto.FLOAT}, []),
    ("Cast", 19, {"to": onnx.TensorProto.FLOAT, "saturate": 1}, []),
]


@pytest.mark.parametrize(("op", "opset", "attributes", "others"), OPERATIONS)
def test_operator__computes_what_the_runtime_does(rng, op, opset, attributes, others):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    if op in ("Add", "Sub", "Mul", "Div"):
        others = [rng.standard_normal((3, 1)).astype(np.float32)]
    tensors = {f"other{k}": value for k, value in enumerate(others)}
    node = onnx.helper.make_node(op, ["x", *tensors], ["y"], **attributes)
    model = make_model([node], {"x": (2, None, 4)}, {"y": None}, tensors, opset)
    (want,) = run_elsewhere(model, {"x": x})
    got = rnnkernels.onnx.load(model)(x)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, **TOLERANCE)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Flatten"])
def test_operator__of_nothing_gives_nothing(op, opset, shape):
    for axis in (0, 1, 2):
        node = onnx.helper.make_node(op, ["x"], ["y"], axis=axis)
        model = make_model([node], {"x": (None, None, None)}, {"y": None}, {}, opset)
        x = np.zeros(shape, np.float32)
        (want,) = run_elsewhere(model, {"x": x})
        assert rnnkernels.onnx.load(model)(x).shape == want.shape


@pytest.mark.parametrize("shape", [(0, 2, 3), (6, 0, 3)])
@pytest.mark.parametrize("op", GATES)
def test_recurrent_node__of_nothing_gives_nothing(rng, op, shape):
    model, _ = make_recurrent(rng, op, "bidirectional")  # ONNX Runtime ends the process where there is no step
    model.graph.node.append(onnx.helper.make_node("Softmax", ["Y"], ["z"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    got = rnnkernels.onnx.load(model).run({"X": np.zeros(shape, np.float32)})
    assert got["z"].shape == got["Y"].shape == (shape[0], 2, shape[1], 5)
    np.testing.assert_array_equal(got["Y_h"], np.zeros((2, shape[1], 5)))


def test_shapes__are_computed_as_the_runtime_does(rng):
    """First states as exporters make them, and integer arithmetic."""
    make = onnx.helper.make_node
    fill = onnx.numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        make("Shape", ["x"], ["sizes"]),
        make("Shape", ["x"], ["some"], start=-2),
        make("Gather", ["sizes", "one"], ["steps"], axis=0),
        make("Constant", [], ["minus_two"], value_ints=[-2]),
        make("Div", ["steps", "minus_two"], ["half"]),
        make("Mul", ["half", "minus_two"], ["even"]),
        make("Concat", ["even", "some"], ["shape"], axis=0),
        make("ConstantOfShape", ["shape"], ["y"], value=fill),
        make("Cast", ["half"], ["z"], to=onnx.TensorProto.FLOAT),
    ]
    model = make_model(nodes, {"x": (None, None, 4)}, {"y": None, "z": None}, {"one": ints(1)})
    x = np.zeros((2, 3, 4), np.float32)
    for got, want in zip(rnnkernels.onnx.load(model)(x), run_elsewhere(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, want)


def test_documentation__lists_all_operators():
    listed = rnnkernels.onnx.load.__doc__.split("Operators: ")[1].split(".\n")[0]
    assert {name.strip() for name in listed.split(",")} == {*_graph.OPERATORS, *_graph.RECURRENT}


@pytest.mark.slow
def test_model_from_torch__runs_as_a_whole(rng, tmp_path):
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 5)
            self.lstm = torch.nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True)
            self.gru = torch.nn.GRU(12, 4, batch_first=True)
            self.rnn = torch.nn.RNN(4, 3)
            self.dense = torch.nn.Linear(3, 2)

        def forward(self, x):
            h, _ = self.gru(self.lstm(self.embedding(x))[0])
            h, _ = self.rnn(h.transpose(0, 1))
            return torch.softmax(self.dense(h[-1]), -1)

    network, indices = Network().eval(), torch.randint(0, 7, (3, 8))
    try:
        with pytest.warns():  # the exporter warns of itself
            torch.onnx.export(
                network,
                (indices,),
                tmp_path / "model.onnx",
                input_names=["x"],
                dynamic_axes={"x": {0: "batch", 1: "steps"}},
                dynamo=False,
            )
    except (ImportError, TypeError) as error:
        pytest.skip(f"this PyTorch does not export: {error}")
    loaded = rnnkernels.onnx.load(tmp_path / "model.onnx")
    for shape in ((3, 8), (2, 5)):
        indices = torch.randint(0, 7, shape)
        with torch.no_grad():
            np.testing.assert_allclose(loaded(indices.numpy()), network(indices).numpy(), **TOLERANCE)
