"""The libraries that `compare_peers` measures, each behind the same three tasks and used as its documentation advises.

Weights are those of rnnkernels throughout, with the gate blocks of `_cells` along the last axis. A gate order is
written as a string of letters; g and n are the candidates that ONNX, Keras and OpenVINO call c and h.

Every peer gets its arguments in its own array type and favourite memory layout before the clock starts, and its results
are not converted while it runs. What it returns is converted to rnnkernels' layout for the comparison of numbers.
"""

import contextlib
import datetime as dt
import functools
import gc
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from _cells import CELLS, Cell
from _machine import describe, sleep_until_idle

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Point:
    """One place of the grid: what is computed, in which dtype, at which size."""

    name: str
    cell: str
    """``lstm``, ``rnn`` (tanh) or ``gru`` (reset after the product, two biases)."""
    task: str
    """``inference``, ``training`` (forward and backward) or ``step`` (one call per time step); for tables of single
    functions ``forward`` (with a cache) and ``backward`` alone, and ``step_backward``, too."""
    dtype: str
    N: int
    T: int
    D: int
    H: int

    @property
    def size(self) -> str:
        """The sizes as the tables write them."""
        return f"{self.N}, {self.T}, {self.D}, {self.H}"

    def __str__(self) -> str:
        return f"{self.cell} {self.task} {self.dtype} {self.N},{self.T},{self.D},{self.H} {self.name}"

    @property
    def traits(self) -> Cell:
        """What is particular to the cell."""
        return CELLS[self.cell]

    @property
    def columns(self) -> int:
        """Columns of `Wx` and `Wh`."""
        return len(self.traits.gates) * self.H

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize


def make_arrays(point: Point) -> Arrays:
    """Arguments of a point, the same for every dtype: float32 numbers, in the layout of rnnkernels."""
    rng = np.random.default_rng(0)
    N, T, D, H = point.N, point.T, point.D, point.H
    reach = H**-0.5

    def weights(*shape: int) -> np.ndarray:
        return rng.uniform(-reach, reach, shape).astype(np.float32)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    arrays = {
        "Wx": weights(D, point.columns),
        "Wh": weights(H, point.columns),
        **{bias: weights(point.columns) for bias in point.traits.biases},
        "x": normal(N, T, D),
        "h0": np.tanh(normal(N, H)),
        "c0": normal(N, H),
        "dh": normal(N, T, H),
    }
    return {name: array.astype(point.dtype) for name, array in arrays.items()}


def reorder_gates(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Gate blocks of the last axis in another order."""
    blocks = dict(zip(source, np.split(array, len(source), axis=-1), strict=True))
    return np.concatenate([blocks[gate] for gate in target], axis=-1)


def weights_in_order(point: Point, arrays: Arrays, gates: str) -> Arrays:
    """All weights of a point, with another order of the gates; the second bias is zero where the cell has none."""
    cell = point.traits
    weights = {name: reorder_gates(arrays[name], cell.gates, gates) for name in cell.weights}
    return {"bh": np.zeros_like(weights["b"])} | weights


def initial_states(point: Point, arrays: Arrays) -> list[np.ndarray]:
    """States before the first step: of a single step the given ones, of a sequence h0 and zeros."""
    states = [arrays[f"{name}0"] for name in point.traits.states]
    return states if point.task.startswith("step") else states[:1] + [np.zeros_like(state) for state in states[1:]]


def time_major(array: np.ndarray) -> np.ndarray:
    """(N, T, ...) as (T, N, ...), or back."""
    return np.ascontiguousarray(array.swapaxes(0, 1))


@dataclass
class Task:
    """A computation that is ready to run."""

    ways: dict[str, Callable[[], Any]]
    """Equivalent calls, the usual one first; the fastest one is measured."""
    outputs: Callable[[Any], Arrays]
    """What a call returned, in the layout of rnnkernels."""


class Peer:
    """A library under comparison."""

    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """What has to be installed; each name is that of the distribution and of the module."""
    packs_once: ClassVar[bool] = False
    """Whether a model keeps weights in its own layout from the time when it is made."""

    def __init__(self, threads: int) -> None:
        raise NotImplementedError

    @classmethod
    def variables(cls, threads: int) -> dict[str, str]:
        """Environment that the library reads when it starts."""
        return {}

    @classmethod
    def lacks(cls, point: Point, threads: int) -> bool:
        """Whether the library has no way to compute this point."""
        return False

    def make(self, point: Point, arrays: Arrays) -> Task:
        """Prepare everything up to, and without, the first call."""
        raise NotImplementedError


class RnnKernels(Peer):
    """The functions of this repository; for steps its streams."""

    title = "rnnkernels"
    packages = ("rnnkernels",)

    def __init__(self, threads: int) -> None:
        self.functions: Any = import_module("rnnkernels")
        if hasattr(self.functions, "set_num_threads"):
            self.functions.set_num_threads(threads)

    @classmethod
    def lacks(cls, point: Point, threads: int) -> bool:
        package = import_module("rnnkernels")
        return not hasattr(package, f"{point.cell}_forward") or (
            threads > 1 and not hasattr(package, "set_num_threads")
        )

    def make(self, point: Point, arrays: Arrays) -> Task:
        if point.task == "step":
            return self._step(point, arrays)
        return function_task(self.functions, point, arrays, keep_cache=False)

    def _step(self, point: Point, arrays: Arrays) -> Task:
        cell = point.traits
        make_stream = getattr(self.functions, f"{cell.class_name}Stream")
        weights = (arrays[name] for name in ("Wx", "Wh", "b"))
        stream = make_stream(*weights, batch_size=point.N, **cell.options(arrays))
        x = arrays["x"][:, 0].copy()
        states = initial_states(point, arrays)
        stream.reset(*states)

        def outputs(_: Any) -> Arrays:
            """Results of the first step; the calls before have moved on."""
            stream.reset(*states)
            stream.step(x)
            return {name: getattr(stream, name) for name in cell.states}

        return Task({"": functools.partial(stream.step, x)}, outputs)


class Layers(RnnKernels):
    """The layers of this repository, which pack their weights when they are made."""

    title = "layer"

    @classmethod
    def lacks(cls, point: Point, threads: int) -> bool:
        lacks_layer = not hasattr(import_module("rnnkernels"), point.traits.class_name)
        return lacks_layer or point.task == "step" or super().lacks(point, threads)

    def make(self, point: Point, arrays: Arrays) -> Task:
        cell = point.traits
        weights = (arrays[name] for name in ("Wx", "Wh", "b"))
        layer = getattr(self.functions, cell.class_name)(*weights, **cell.options(arrays))
        x, h0, dh = (arrays[name] for name in ("x", "h0", "dh"))

        def inference() -> tuple[np.ndarray, ...]:
            return layer.forward(x, h0, keep_cache=False)[:1]

        def training() -> tuple[Any, ...]:
            h, cache = layer.forward(x, h0)
            gradients = layer.backward(dh, cache)
            return h, gradients

        def outputs(results: tuple[Any, ...]) -> Arrays:
            if point.task == "inference":
                return {"h": results[0]}
            h, gradients = results
            dx, of_weights = gradients
            named = {f"d{name}": of_weights[name] for name in cell.weights}
            return {"h": h, "dx": dx, "dh0": gradients.dh0} | named

        return Task({"": inference if point.task == "inference" else training}, outputs)


class Reference(Peer):
    """rnnkernels.reference, plain NumPy."""

    title = "NumPy"
    packages = ("numpy", "rnnkernels")

    def __init__(self, threads: int) -> None:
        self.functions: Any = import_module("rnnkernels.reference")

    def make(self, point: Point, arrays: Arrays) -> Task:
        return function_task(self.functions, point, arrays)


def function_task(functions: Any, point: Point, arrays: Arrays, **inference_options: Any) -> Task:
    """Any task by functions with the names and arguments of rnnkernels; the options are for whole sequences."""
    if point.task.startswith("step"):
        return _step_task(functions, point, arrays)
    return _sequence_task(functions, point, arrays, **inference_options)


def _sequence_task(functions: Any, point: Point, arrays: Arrays, **inference_options: Any) -> Task:
    cell = point.traits
    forward, backward = (cell.function(functions, scope) for scope in ("forward", "backward"))
    arguments = [arrays[name] for name in ("x", "h0", "Wx", "Wh", "b")]
    options = cell.options(arrays)
    dh = arrays["dh"]

    def training() -> tuple[Any, Any]:
        h, cache = forward(*arguments, **options)
        return h, backward(dh, cache)

    def make_backward() -> Callable[[], Any]:
        h, cache = forward(*arguments, **options)
        return lambda: (h, backward(dh, cache))

    def outputs(results: tuple[Any, ...]) -> Arrays:
        h, *rest = results
        if point.task in ("inference", "forward"):
            return {"h": h}
        dx, dh0, *_ = gradients = rest[0]
        return dict(zip(("h", *cell.gradients), (h, dx, dh0, *cell.weight_gradients(gradients)), strict=True))

    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "inference": lambda: functools.partial(forward, *arguments, **options, **inference_options),
        "training": lambda: training,
        "forward": lambda: functools.partial(forward, *arguments, **options),
        "backward": make_backward,
    }
    return Task({"": makers[point.task]()}, outputs)


def _step_task(functions: Any, point: Point, arrays: Arrays) -> Task:
    cell = point.traits
    forward, backward = (cell.function(functions, scope) for scope in ("step_forward", "step_backward"))
    states = initial_states(point, arrays)
    arguments = [arrays["x"][:, 0].copy(), *states, *(arrays[name] for name in ("Wx", "Wh", "b"))]
    options = cell.options(arrays)
    if point.task == "step":
        return Task(
            {"": functools.partial(forward, *arguments, **options)},
            lambda results: dict(zip(cell.states, results, strict=False)),
        )
    *_, cache = forward(*arguments, **options)
    names = "dx", *(f"d{name}0" for name in cell.states), *(f"d{name}" for name in cell.weights)

    def outputs(gradients: Any) -> Arrays:
        before = gradients[: 1 + len(states)]
        return dict(zip(names, (*before, *cell.weight_gradients(gradients)), strict=True))

    return Task({"": functools.partial(backward, *state_gradients(point, arrays), cache)}, outputs)


def state_gradients(point: Point, arrays: Arrays) -> list[np.ndarray]:
    """What arrives at the states after a single step."""
    return [arrays["dh"][:, 0].copy(), arrays["c0"]][: len(point.traits.states)]


class PyTorch(Peer):
    """torch.nn modules, whose float32 LSTM is oneDNN's.

    Time-major, the modules' default and the layout of oneDNN. Tuning guide: inference mode, gradients asked for by
    name instead of accumulated and cleared. `torch.compile` leaves recurrent modules alone.
    """

    title = "PyTorch"
    packages = ("torch",)

    def __init__(self, threads: int) -> None:
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)

    GATES: ClassVar[dict[str, str]] = {"lstm": "ifgo", "rnn": "h", "gru": "rzn"}

    def make(self, point: Point, arrays: Arrays) -> Task:
        makers = {"step": self._step, "step_backward": self._step_backward}
        return makers.get(point.task, self._sequence)(point, arrays)

    def _module(self, kind: str, point: Point, arrays: Arrays, suffix: str = "") -> Any:
        weights = weights_in_order(point, arrays, self.GATES[point.cell])
        names = {"weight_ih": "Wx", "weight_hh": "Wh", "bias_ih": "b", "bias_hh": "bh"}
        module = getattr(self.torch.nn, kind)(point.D, point.H).to(getattr(self.torch, point.dtype))
        module.load_state_dict({f"{theirs}{suffix}": self._tensor(weights[ours].T) for theirs, ours in names.items()})
        return module

    def _tensor(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array))

    def _weights(self, module: Any, point: Point, suffix: str = "") -> list[Any]:
        """Those of which gradients are asked for, in the order of the cell's weights."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(module, name + suffix) for name in names[: len(point.traits.weights)]]

    def _gradients(self, point: Point, gradients: Iterable[Any]) -> Arrays:
        """Of the weights, in the layout of rnnkernels."""
        cell, gates = point.traits, self.GATES[point.cell]
        pairs = zip(cell.weights, gradients, strict=True)
        return {f"d{name}": reorder_gates(d.numpy().T, gates, cell.gates) for name, d in pairs}

    @staticmethod
    def _hx(states: list[Any]) -> Any:
        """States as a module wants them: a tuple only if there are several."""
        return tuple(states) if len(states) > 1 else states[0]

    def _sequence(self, point: Point, arrays: Arrays) -> Task:
        torch = self.torch
        module = self._module(point.traits.class_name, point, arrays, "_l0")
        x = torch.from_numpy(time_major(arrays["x"]))
        dh = torch.from_numpy(time_major(arrays["dh"]))
        states = [torch.from_numpy(state[None]) for state in initial_states(point, arrays)]
        hx = self._hx(states)

        if point.task == "inference":
            module.eval()

            @torch.inference_mode()
            def inference() -> tuple[Any, ...]:
                return module(x, hx)[:1]

            return Task({"": inference}, lambda results: {"h": time_major(results[0].numpy())})

        wanted = [x, states[0], *self._weights(module, point, "_l0")]
        for tensor in wanted:
            tensor.requires_grad_()

        def training() -> tuple[Any, ...]:
            h, _ = module(x, hx)
            return h, *torch.autograd.grad(h, wanted, dh)

        def outputs(results: tuple[Any, ...]) -> Arrays:
            h, dx, dh0, *gradients = results
            named = {"h": time_major(h.detach().numpy()), "dx": time_major(dx.numpy()), "dh0": dh0[0].numpy()}
            return named | self._gradients(point, gradients)

        return Task({"": training}, outputs)

    def _step(self, point: Point, arrays: Arrays) -> Task:
        torch = self.torch
        module = self._module(f"{point.traits.class_name}Cell", point, arrays).eval()
        x = torch.from_numpy(arrays["x"][:, 0].copy())
        hx = self._hx([torch.from_numpy(state) for state in initial_states(point, arrays)])
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and still the fastest way
            frozen = torch.jit.freeze(torch.jit.trace(module, (x, hx)))

        def way(module: Any) -> Callable[[], Any]:
            return torch.inference_mode()(lambda: module(x, hx))

        def outputs(results: Any) -> Arrays:
            states = results if isinstance(results, tuple) else [results]
            return {name: state.numpy() for name, state in zip(point.traits.states, states, strict=True)}

        return Task({"cell": way(module), "traced cell": way(frozen)}, outputs)

    def _step_backward(self, point: Point, arrays: Arrays) -> Task:
        torch, cell = self.torch, point.traits
        module = self._module(f"{cell.class_name}Cell", point, arrays)
        x = torch.from_numpy(arrays["x"][:, 0].copy())
        states = [torch.from_numpy(state.copy()) for state in initial_states(point, arrays)]
        wanted = [x, *states, *self._weights(module, point)]
        for tensor in wanted:
            tensor.requires_grad_()
        results = module(x, self._hx(states))
        after = results if isinstance(results, tuple) else (results,)
        arriving = [torch.from_numpy(gradient) for gradient in state_gradients(point, arrays)]

        def outputs(gradients: tuple[Any, ...]) -> Arrays:
            before, of_weights = gradients[: 1 + len(states)], gradients[1 + len(states) :]
            named = zip(("dx", *(f"d{name}0" for name in cell.states)), before, strict=True)
            return {name: gradient.numpy() for name, gradient in named} | self._gradients(point, of_weights)

        return Task({"": lambda: torch.autograd.grad(after, wanted, arriving, retain_graph=True)}, outputs)


class Jax(Peer):
    """Jitted `lax.scan` with the input projection hoisted out of it, and its vector-Jacobian product."""

    title = "JAX"
    packages = ("jax",)
    UNROLLS = (1, 4)

    def __init__(self, threads: int) -> None:
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_platforms", "cpu")
        self.jax.config.update("jax_enable_x64", True)

    @classmethod
    def variables(cls, threads: int) -> dict[str, str]:
        # Above one thread the pool has as many threads as the process has CPUs.
        return {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if threads == 1 else {}

    def make(self, point: Point, arrays: Arrays) -> Task:
        jax, np_ = self.jax, self.jax.numpy
        names = point.traits.states
        cell = self._cells()[point.cell]

        def recurrent(h: Any, Wh: Any, bh: Any) -> Any:
            return h @ Wh if bh is None else h @ Wh + bh

        def forward(x: Any, h0: Any, Wx: Any, Wh: Any, b: Any, bh: Any = None, *, unroll: int) -> Any:
            def step(states: tuple[Any, ...], zx: Any) -> Any:
                states = cell(zx, recurrent(states[0], Wh, bh), *states)
                return states, states[0]

            states = (h0, *(np_.zeros_like(h0) for _ in names[1:]))
            return jax.lax.scan(step, states, x @ Wx + b, unroll=unroll)[1]

        def step(x: Any, states: tuple[Any, ...], Wx: Any, Wh: Any, b: Any, bh: Any = None) -> Any:
            return cell(b + x @ Wx, recurrent(states[0], Wh, bh), *states)

        def training(dh: Any, *arguments: Any, unroll: int) -> Any:
            h, pull_back = jax.vjp(functools.partial(forward, unroll=unroll), *arguments)
            return h, *pull_back(dh)

        weights = [np_.asarray(arrays[name]) for name in point.traits.weights]
        states = tuple(np_.asarray(state) for state in initial_states(point, arrays))
        if point.task == "step":
            arguments: list[Any] = [np_.asarray(arrays["x"][:, 0]), states, *weights]
            return Task(
                {"": self._jitted(step, arguments)},
                lambda results: {name: np.asarray(r) for name, r in zip(names, results, strict=True)},
            )

        arguments = [np_.asarray(time_major(arrays["x"])), states[0], *weights]
        if point.task == "training":
            arguments = [np_.asarray(time_major(arrays["dh"])), *arguments]
        function = training if point.task == "training" else forward
        unrolls = [unroll for unroll in self.UNROLLS if unroll <= point.T]
        ways = {f"unroll={n}": self._jitted(functools.partial(function, unroll=n), arguments) for n in unrolls}

        def outputs(results: Any) -> Arrays:
            values = results if point.task == "training" else [results]
            named = dict(zip(("h", *point.traits.gradients), map(np.asarray, values), strict=False))
            return named | {name: time_major(named[name]) for name in ("h", "dx") if name in named}

        return Task(ways, outputs)

    def _cells(self) -> dict[str, Callable[..., tuple[Any, ...]]]:
        """States after a step from the two products, biases included, and the states before it."""
        tanh, split, sigmoid = self.jax.numpy.tanh, self.jax.numpy.split, self.jax.nn.sigmoid

        def rnn(zx: Any, zh: Any, _: Any) -> tuple[Any, ...]:
            return (tanh(zx + zh),)

        def lstm(zx: Any, zh: Any, _: Any, c: Any) -> tuple[Any, ...]:
            i, f, o, g = split(zx + zh, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * tanh(g)
            return sigmoid(o) * tanh(c), c

        def gru(zx: Any, zh: Any, h: Any) -> tuple[Any, ...]:
            (rx, ux, nx), (rh, uh, nh) = split(zx, 3, axis=-1), split(zh, 3, axis=-1)
            u = sigmoid(ux + uh)
            return ((1 - u) * tanh(nx + sigmoid(rx + rh) * nh) + u * h,)

        return {"rnn": rnn, "lstm": lstm, "gru": gru}

    def _jitted(self, function: Callable[..., Any], arguments: list[Any]) -> Callable[[], Any]:
        jitted, wait = self.jax.jit(function), self.jax.block_until_ready
        return lambda: wait(jitted(*arguments))


class OnnxRuntime(Peer):
    """A one-node ONNX model with constant weights, which the session packs once."""

    title = "ONNX Runtime"
    packages = ("onnxruntime", "onnx")
    packs_once = True
    GATES: ClassVar[dict[str, str]] = {"lstm": "iofg", "rnn": "h", "gru": "zrn"}
    ATTRIBUTES: ClassVar[dict[str, dict[str, int]]] = {"gru": {"linear_before_reset": 1}}

    def __init__(self, threads: int) -> None:
        self.runtime: Any = import_module("onnxruntime")
        self.options = self.runtime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1

    @classmethod
    def lacks(cls, point: Point, threads: int) -> bool:
        return point.task == "training" or point.dtype != "float32"

    def make(self, point: Point, arrays: Arrays) -> Task:
        model = self._model(point, arrays)
        session = self.runtime.InferenceSession(model, self.options, providers=["CPUExecutionProvider"])
        states = zip(point.traits.states, initial_states(point, arrays), strict=True)
        feed = {"x": time_major(arrays["x"])} | {f"{name}0": state[None] for name, state in states}

        binding, value = session.io_binding(), self.runtime.OrtValue
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(array))
        for result in session.get_outputs():
            binding.bind_ortvalue_output(result.name, value.ortvalue_from_shape_and_type(result.shape, np.float32))

        def run_bound() -> list[np.ndarray]:
            session.run_with_iobinding(binding)
            return binding.get_outputs()

        def outputs(results: list[Any]) -> Arrays:
            values = (r if isinstance(r, np.ndarray) else r.numpy() for r in results)
            named = zip(point.traits.states, values, strict=False)
            return {name: time_major(r[:, 0]) if r.ndim == 4 else r[0] for name, r in named}

        return Task({"run": lambda: session.run(None, feed), "bound": run_bound}, outputs)

    def _model(self, point: Point, arrays: Arrays) -> bytes:
        onnx: Any = import_module("onnx")
        helper, real = onnx.helper, onnx.TensorProto.FLOAT
        weights = weights_in_order(point, arrays, self.GATES[point.cell])
        biases = np.concatenate([weights["b"], weights["bh"]])
        constants = {"W": weights["Wx"].T[None], "R": weights["Wh"].T[None], "B": biases[None]}
        states = [f"{name}0" for name in point.traits.states]
        state_shape = [1, point.N, point.H]
        if point.task == "step":
            results = dict.fromkeys((f"Y_{name}" for name in point.traits.states), state_shape)
            node_outputs = ["", *results]
        else:
            results = {"Y": [point.T, 1, point.N, point.H]}
            node_outputs = ["Y"]
        node = helper.make_node(
            point.traits.class_name,
            ["x", "W", "R", "B", "", *states],
            node_outputs,
            hidden_size=point.H,
            **self.ATTRIBUTES.get(point.cell, {}),
        )
        inputs = {"x": [point.T, point.N, point.D]} | dict.fromkeys(states, state_shape)
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info(name, real, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, real, shape) for name, shape in results.items()],
            [onnx.numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()],
        )
        opset = helper.make_opsetid("", 17)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


class OpenVino(Peer):
    """A one-node model compiled for latency, with static shapes and tensors that are bound once.

    Threads are not pinned: the process already has the CPUs that it may use, and on a busy machine a pinned thread
    waits for its CPU.
    """

    title = "OpenVINO"
    packages = ("openvino",)
    packs_once = True
    GATES: ClassVar[dict[str, str]] = {"lstm": "figo", "rnn": "h", "gru": "zrn"}
    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "rnn": {"activations": ["tanh"]},
        "gru": {"linear_before_reset": True},
    }

    def __init__(self, threads: int) -> None:
        self.openvino: Any = import_module("openvino")
        self.operations: Any = import_module("openvino.opset13")
        self.core = self.openvino.Core()
        self.configuration = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }

    @classmethod
    def lacks(cls, point: Point, threads: int) -> bool:
        return point.task == "training" or point.dtype != "float32"

    def make(self, point: Point, arrays: Arrays) -> Task:
        operations = self.operations
        N, T, H = point.N, point.T, point.H
        weights = weights_in_order(point, arrays, self.GATES[point.cell])
        bias = weights["b"] + weights["bh"]
        if point.cell == "gru":  # the second bias of the candidate stands inside the product with the reset gate
            bias = np.concatenate([bias[: 2 * H], weights["b"][2 * H :], weights["bh"][2 * H :]])
        constants = [operations.constant(np.ascontiguousarray(a.T[None])) for a in (weights["Wx"], weights["Wh"], bias)]
        lengths = operations.constant(np.full(N, T, np.int32))
        values = [arrays["x"], *(state[:, None] for state in initial_states(point, arrays))]
        inputs = [operations.parameter(value.shape, np.float32) for value in values]
        make_node = getattr(operations, f"{point.cell}_sequence")
        node = make_node(*inputs, lengths, *constants, H, "forward", **self.OPTIONS.get(point.cell, {}))
        results = node.outputs()[1:] if point.task == "step" else node.outputs()[:1]
        model = self.openvino.Model(results, inputs, "layer")
        request = self.core.compile_model(model, "CPU", self.configuration).create_infer_request()
        bound = [np.ascontiguousarray(value) for value in values]  # the request reads them, and keeps no reference
        for index, array in enumerate(bound):
            request.set_input_tensor(index, self.openvino.Tensor(array, shared_memory=True))

        def infer() -> list[np.ndarray]:
            request.infer()
            return bound

        def outputs(_: Any) -> Arrays:
            values = (request.get_output_tensor(i).data for i in range(len(results)))
            named = zip(point.traits.states, values, strict=False)
            return {name: r[:, 0].copy() for name, r in named}

        return Task({"": infer}, outputs)


PEERS: dict[str, type[Peer]] = {
    "rnnkernels": RnnKernels,
    "layers": Layers,
    "torch": PyTorch,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "jax": Jax,
    "reference": Reference,
}


class Session:
    """A peer inside its worker: build a point, check it, then measure it as often as asked."""

    WARM_UP_SECONDS = 0.02
    """Unmeasured start of each visit: the visits to other workers left caches cold, and threads asleep or all on one
    core. Calls that take longer need no warm-up."""
    BATCH_SECONDS = 50e-6
    """Calls are timed in batches of about this length at least, so that reading the clock does not count."""

    def __init__(self, name: str, threads: int) -> None:
        self.peer = PEERS[name](threads)
        self.task: Task | None = None
        self.call: Callable[[], Any] = lambda: None
        self.seconds = 0.0

    def build(self, point: Point, all_ways: bool) -> float:
        """Prepare a point and run each of its ways, or only the first, once; the seconds that this took."""
        self.task = None
        gc.collect()
        arrays = make_arrays(point)
        begin = time.perf_counter()
        self.task = self.peer.make(point, arrays)
        if not all_ways:
            self.task.ways = dict(list(self.task.ways.items())[:1])
        for call in self.task.ways.values():
            call()
        return time.perf_counter() - begin

    def choose(self) -> tuple[str, float, Arrays]:
        """Keep the fastest way: its name, seconds per call, and what it returns."""
        assert self.task is not None
        seconds = {name: _shortest_call(call) for name, call in self.task.ways.items()}
        way = min(seconds, key=seconds.__getitem__)
        self.call, self.seconds = self.task.ways[way], seconds[way]
        self.task.ways = {way: self.call}
        return way, self.seconds, self.task.outputs(self.call())

    def measure(self, calls: int) -> list[float]:
        """Seconds per call of about `calls` calls, one number per batch."""
        call, clock = self.call, time.perf_counter
        batch = min(calls, max(1, round(self.BATCH_SECONDS / self.seconds)))
        samples = []
        gc.disable()
        if self.seconds < self.WARM_UP_SECONDS:
            warm = clock() + self.WARM_UP_SECONDS
            while clock() < warm:
                call()
        for _ in range(max(1, calls // batch)):
            begin = clock()
            for _ in range(batch):
                call()
            samples.append((clock() - begin) / batch)
        gc.enable()
        sleep_until_idle()
        return samples


def _shortest_call(call: Callable[[], Any], seconds: float = 0.05) -> float:
    shortest = float("inf")
    begin = now = time.perf_counter()
    calls = 0
    while calls < 2 or (calls < 1000 and now < begin + seconds):
        before = now
        call()
        now = time.perf_counter()
        shortest = min(shortest, now - before)
        calls += 1
    sleep_until_idle()
    return shortest


class OwnFigures:
    """What concerns rnnkernels alone: growth with T, accuracy of the activations, and the time to start."""

    FIRST_CALL = """
import time; begin = time.perf_counter()
import rnnkernels; imported = time.perf_counter()
import numpy as np
x, h0, Wx, Wh, b = (np.ones(s, np.float32) for s in ((2, 3, 4), (2, 5), (4, 20), (5, 20), (20,)))
called = time.perf_counter()
h, cache = rnnkernels.lstm_forward(x, h0, Wx, Wh, b)
rnnkernels.lstm_backward(h, cache)
print(imported - begin, time.perf_counter() - called)
"""

    def __init__(self) -> None:
        self.package: Any = import_module("rnnkernels")
        self.package.set_num_threads(1)

    def growth(self, short: int, long: int) -> tuple[float, int | None]:
        """Time of a step of LSTM inference over many steps, relative to fewer, and the bytes of scratch of the many.

        To be asked of a new process: scratch is the peak of its memory less the arguments and the result.
        """
        arrays = make_arrays(Point("growth", "lstm", "inference", "float32", 1, short, 16, 64))
        weights = [arrays[name] for name in ("h0", "Wx", "Wh", "b")]
        x = np.random.default_rng(0).standard_normal((1, long, 16), dtype=np.float32)

        def seconds(x: np.ndarray, calls: int) -> float:
            begin = time.perf_counter()
            for _ in range(calls):
                self.package.lstm_forward(x, *weights, keep_cache=False)
            return time.perf_counter() - begin

        seconds(arrays["x"], 1)
        before = _resident_bytes()
        seconds(x, 1)
        extra = None if before is None else _peak_resident_bytes() - before - long * 64 * 4
        ratios = [seconds(x, 1) / seconds(arrays["x"], long // short) for _ in range(3)]
        return float(np.median(ratios)), extra

    def largest_ulps(self, stride: int) -> tuple[float, float]:
        """Largest errors of sigmoid and tanh over every `stride`-th finite float32, in units of the last place."""
        one, none = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)

        def tanh(x: np.ndarray) -> np.ndarray:
            h0 = np.zeros((x.size, 1), np.float32)
            return self.package.rnn_step_forward(x[:, None], h0, one, none, none[0], keep_cache=False)[0][:, 0]

        def exact_sigmoid(x: np.ndarray) -> np.ndarray:
            e = np.exp(-np.abs(x))
            return np.where(x < 0, e, 1) / (1 + e)

        return _largest_ulp(self.package.sigmoid, exact_sigmoid, stride), _largest_ulp(tanh, np.tanh, stride)

    def start_seconds(self) -> tuple[float, float, float]:
        """Import, and first LSTM forward and backward without and with a disk cache, in new processes."""
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"NUMBA_CACHE_DIR": folder}
            runs = []
            for _ in range(2):
                run = subprocess.run(
                    [sys.executable, "-c", self.FIRST_CALL], env=environment, capture_output=True, text=True, check=True
                )
                runs.append([float(number) for number in run.stdout.split()])
        (_, cold), (imported, warm) = runs
        return imported, cold, warm


def _largest_ulp(
    function: Callable[[np.ndarray], np.ndarray], exact: Callable[[np.ndarray], np.ndarray], stride: int
) -> float:
    worst, block = 0.0, 2**20 * stride
    for begin in range(0, 2**32, block):
        bits = np.arange(begin, min(begin + block, 2**32), stride, dtype=np.uint64).astype(np.uint32)
        x = bits.view(np.float32)
        x = x[np.isfinite(x)]
        if x.size:
            truth = exact(x.astype(np.float64))
            unit = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
            worst = max(worst, float(np.max(np.abs(function(x) - truth) / unit)))
    return worst


def _resident_bytes() -> int | None:
    """Physical memory of this process now; None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _peak_resident_bytes() -> int:
    """Most physical memory of this process so far, on Linux; `ru_maxrss` begins with that of the parent process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def absent(name: str) -> list[str]:
    """Packages that a peer needs and that are not installed."""
    return [package for package in PEERS[name].packages if find_spec(package) is None]


def versions() -> dict[str, str]:
    """Versions of what is compared, as far as it is installed."""
    found = {}
    for peer in PEERS.values():
        for package in peer.packages:
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(package)
    return found


def describe_run() -> dict[str, Any]:
    """Machine, versions, commit, date and command of this run."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return describe() | {
        "versions": versions() | {"rnnkernels": import_module("rnnkernels").__version__},
        "commit": commit.stdout.strip(),
        "date": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv[1:],
    }
