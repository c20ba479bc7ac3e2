"""The cells against PyTorch's, with all that PyTorch has: first and last states, second biases, carried states."""

import inspect

import numpy as np
import pytest
from helpers import make_arguments

import rnnkernels
from rnnkernels import reference

torch = pytest.importorskip("torch")

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STATES = {"rnn": ("h0",), "lstm": ("h0", "c0"), "gru": ("h0",)}
BLOCKS = {"rnn": [0], "lstm": [0, 1, 3, 2], "gru": [0, 1, 2]}  # PyTorch's gates are i, f, g, o; ours i, f, o, g
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
CASES = [(module, cell) for module in (reference, rnnkernels) for cell in GATES]


@pytest.fixture(params=CASES, ids=[f"{module.__name__}-{cell}" for module, cell in CASES])
def functions(request):
    """Name, forward and backward function of a cell."""
    module, cell = request.param
    forward, backward = getattr(module, f"{cell}_forward", None), getattr(module, f"{cell}_backward", None)
    if backward is None or "dstate" not in inspect.signature(backward).parameters:
        pytest.skip(f"{module.__name__} has no {cell} with states")
    return cell, forward, backward


def make_problem(rng, cell, N, T, D, H, first_shape):
    """All arguments of a forward pass by name, float64, all random: constant ones hide a wrong order of gates."""
    named = dict(
        zip(("x", "h0", "Wx", "Wh", "b"), make_arguments(rng, GATES[cell], N, T, D, H, np.float64), strict=True)
    )
    named.update((name, rng.standard_normal(first_shape)) for name in STATES[cell])
    if cell == "gru":
        named["bh"] = rng.standard_normal(3 * H)
    return named


def run_torch(cell, tensors):
    """Run PyTorch's cell on arguments in our layout; return the hidden states and the last state."""
    (N, _, D), H = tensors["x"].shape, len(tensors["Wh"])
    network = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](D, H, batch_first=True).double()
    columns = np.concatenate([np.arange(block * H, (block + 1) * H) for block in BLOCKS[cell]])
    parameters = {
        "weight_ih_l0": tensors["Wx"][:, columns].T,
        "weight_hh_l0": tensors["Wh"][:, columns].T,
        "bias_ih_l0": tensors["b"][columns],
        "bias_hh_l0": tensors["bh"] if "bh" in tensors else torch.zeros(GATES[cell] * H, dtype=torch.float64),
    }
    first = [tensors[name].expand(N, H)[None].contiguous() for name in STATES[cell]]
    h, last = torch.func.functional_call(
        network, parameters, (tensors["x"], tuple(first) if cell == "lstm" else first[0])
    )
    return h, [state[0] for state in (last if cell == "lstm" else (last,))]


def leaves(named):
    return {name: torch.tensor(array, requires_grad=True) for name, array in named.items()}


@pytest.mark.parametrize("first_shape", [(5, 7), (7,)], ids=["states of each row", "one state for all rows"])
def test_cell__and_all_its_gradients_are_those_of_torch(rng, functions, first_shape):
    cell, forward, backward = functions
    named = make_problem(rng, cell, 5, 6, 3, 7, first_shape)
    tensors = leaves(named)
    h, last = run_torch(cell, tensors)
    result = forward(**named)
    np.testing.assert_allclose(result.h, h.detach().numpy(), **TOLERANCE)
    for got, want in zip(result.state, last, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), **TOLERANCE)

    dh, dlast = rng.standard_normal(h.shape), rng.standard_normal((len(last), 5, 7))
    outputs = [h, *last]
    torch.autograd.backward(outputs, [torch.from_numpy(d) for d in (dh, *dlast)])
    gradients = backward(dh, result.cache, dstate=type(result.state)(*dlast))
    for name, tensor in tensors.items():
        np.testing.assert_allclose(getattr(gradients, f"d{name}"), tensor.grad.numpy(), err_msg=name, **TOLERANCE)


def test_last_state__alone_has_the_gradients_of_torch(rng, functions):
    cell, forward, backward = functions
    named = make_problem(rng, cell, 3, 5, 4, 6, (3, 6))
    tensors = leaves(named)
    _, last = run_torch(cell, tensors)
    dlast = rng.standard_normal((3, 6))
    last[-1].backward(torch.from_numpy(dlast))
    result = forward(**named)
    dstate = type(result.state)(*[None] * (len(last) - 1), dlast)
    gradients = backward(None, result.cache, dstate=dstate)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(getattr(gradients, f"d{name}"), tensor.grad.numpy(), err_msg=name, **TOLERANCE)


def test_truncated_training__with_carried_state_and_learned_first_state_is_that_of_torch(rng, functions):
    """Sums over pieces of a long sequence, through which states flow and gradients do not."""
    cell, forward, backward = functions
    named = make_problem(rng, cell, 2, 12, 3, 5, (5,))
    dh = rng.standard_normal((2, 12, 5))
    tensors = leaves(named)
    shared = {name: tensor for name, tensor in tensors.items() if name not in ("x", *STATES[cell])}
    first = [tensors[name] for name in STATES[cell]]
    weights = {name: named[name] for name in shared}
    state = [named[name] for name in STATES[cell]]
    totals = {name: 0.0 for name in named if name != "x"}
    for t in range(0, 12, 4):
        carried = dict(zip(STATES[cell], first, strict=True))
        h, last = run_torch(cell, {"x": tensors["x"][:, t : t + 4], **carried, **shared})
        h.backward(torch.from_numpy(dh[:, t : t + 4]))
        first = [piece.detach() for piece in last]

        result = forward(x=named["x"][:, t : t + 4], **dict(zip(STATES[cell], state, strict=True)), **weights)
        state = result.state
        gradients = backward(dh[:, t : t + 4], result.cache)
        for name in totals:
            if name not in STATES[cell] or t == 0:
                totals[name] = totals[name] + getattr(gradients, f"d{name}")
    for name, total in totals.items():
        np.testing.assert_allclose(total, tensors[name].grad.numpy(), err_msg=name, **TOLERANCE)
