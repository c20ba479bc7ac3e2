"""The libraries that `compare_peers` measures, each behind the same three tasks and used as its documentation advises.

Weights are those of rnnkernels throughout: gate blocks i, f, o, g along the last axis. A gate order is written as a
string of these four letters; g is the candidate that ONNX, Keras and OpenVINO call c.

Every peer gets its arguments in its own array type and favourite memory layout before the clock starts, and its results
are not converted while it runs. What it returns is converted to rnnkernels' layout for the comparison of numbers.
"""

import contextlib
import functools
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from _machine import sleep_until_idle

Arrays = dict[str, np.ndarray]

OUR_GATES = "ifog"
GRADIENTS = ("dx", "dh0", "dWx", "dWh", "db")


@dataclass(frozen=True)
class Point:
    """One place of the grid: what is computed, in which dtype, at which size."""

    name: str
    cell: str
    """``lstm`` or ``rnn`` (tanh)."""
    task: str
    """``inference``, ``training`` (forward and backward) or ``step`` (one call per time step)."""
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
    def columns(self) -> int:
        """Columns of `Wx` and `Wh`."""
        return 4 * self.H if self.cell == "lstm" else self.H

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
        "b": weights(point.columns),
        "x": normal(N, T, D),
        "h0": np.tanh(normal(N, H)),
        "c0": normal(N, H),
        "dh": normal(N, T, H),
    }
    return {name: array.astype(point.dtype) for name, array in arrays.items()}


def reorder_gates(point: Point, array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Gate blocks of the last axis in another order; a vanilla RNN has no gates."""
    if point.cell == "rnn":
        return array
    blocks = dict(zip(source, np.split(array, 4, axis=-1), strict=True))
    return np.concatenate([blocks[gate] for gate in target], axis=-1)


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
    """The package of this repository."""

    title = "rnnkernels"
    packages = ("rnnkernels",)

    def __init__(self, threads: int) -> None:
        self.functions: Any = import_module("rnnkernels")
        if hasattr(self.functions, "set_num_threads"):
            self.functions.set_num_threads(threads)

    @classmethod
    def lacks(cls, point: Point, threads: int) -> bool:
        return threads > 1 and not hasattr(import_module("rnnkernels"), "set_num_threads")

    def make(self, point: Point, arrays: Arrays) -> Task:
        if point.task == "step":
            return self._step(point, arrays)
        return sequence_task(self.functions, point, arrays, keep_cache=False)

    def _step(self, point: Point, arrays: Arrays) -> Task:
        is_lstm = point.cell == "lstm"
        stream = getattr(self.functions, "LSTMStream" if is_lstm else "RNNStream")(
            arrays["Wx"], arrays["Wh"], arrays["b"], batch_size=point.N
        )
        x = arrays["x"][:, 0].copy()
        states = [arrays[name] for name in ("h0", "c0")[: 1 + is_lstm]]
        stream.reset(*states)

        def outputs(_: Any) -> Arrays:
            """Results of the first step; the calls before have moved on."""
            stream.reset(*states)
            h = stream.step(x)
            return {"h": h, "c": stream.c} if is_lstm else {"h": h}

        return Task({"": functools.partial(stream.step, x)}, outputs)


class Reference(Peer):
    """rnnkernels.reference, plain NumPy."""

    title = "NumPy"
    packages = ("numpy", "rnnkernels")

    def __init__(self, threads: int) -> None:
        self.functions: Any = import_module("rnnkernels.reference")

    def make(self, point: Point, arrays: Arrays) -> Task:
        make = step_task if point.task == "step" else sequence_task
        return make(self.functions, point, arrays)


def sequence_task(functions: Any, point: Point, arrays: Arrays, **inference_options: Any) -> Task:
    """Inference or training by functions with the names and arguments of rnnkernels."""
    forward = getattr(functions, f"{point.cell}_forward")
    backward = getattr(functions, f"{point.cell}_backward")
    arguments = [arrays[name] for name in ("x", "h0", "Wx", "Wh", "b")]
    dh = arrays["dh"]

    def inference() -> tuple[np.ndarray, ...]:
        return forward(*arguments, **inference_options)[:1]

    def training() -> tuple[np.ndarray, ...]:
        h, cache = forward(*arguments)
        return h, *backward(dh, cache)

    ways = {"": inference if point.task == "inference" else training}
    return Task(ways, lambda results: dict(zip(("h", *GRADIENTS), results, strict=False)))


def step_task(functions: Any, point: Point, arrays: Arrays, **options: Any) -> Task:
    """One step forward by functions with the names and arguments of rnnkernels."""
    step = getattr(functions, f"{point.cell}_step_forward")
    states = [arrays["h0"], arrays["c0"]] if point.cell == "lstm" else [arrays["h0"]]
    arguments = [arrays["x"][:, 0].copy(), *states, arrays["Wx"], arrays["Wh"], arrays["b"]]
    return Task(
        {"": functools.partial(step, *arguments, **options)},
        lambda results: dict(zip(("h", "c"), results[: len(states)], strict=False)),
    )


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

    def make(self, point: Point, arrays: Arrays) -> Task:
        return self._step(point, arrays) if point.task == "step" else self._sequence(point, arrays)

    def _with_weights(self, module: Any, point: Point, arrays: Arrays, suffix: str) -> Any:
        state = {"bias_hh": self.torch.zeros(point.columns)}
        for name, ours in (("weight_ih", "Wx"), ("weight_hh", "Wh"), ("bias_ih", "b")):
            array = reorder_gates(point, arrays[ours], OUR_GATES, "ifgo")
            state[name] = self.torch.from_numpy(np.ascontiguousarray(array.T))
        module = module.to(getattr(self.torch, point.dtype))
        module.load_state_dict({name + suffix: value for name, value in state.items()})
        return module

    def _sequence(self, point: Point, arrays: Arrays) -> Task:
        torch = self.torch
        make_module = torch.nn.LSTM if point.cell == "lstm" else torch.nn.RNN
        module = self._with_weights(make_module(point.D, point.H), point, arrays, "_l0")
        x = torch.from_numpy(time_major(arrays["x"]))
        dh = torch.from_numpy(time_major(arrays["dh"]))
        h0 = torch.from_numpy(arrays["h0"][None])
        state = (h0, torch.zeros_like(h0)) if point.cell == "lstm" else h0

        if point.task == "inference":
            module.eval()

            @torch.inference_mode()
            def inference() -> tuple[Any, ...]:
                return module(x, state)[:1]

            return Task({"": inference}, lambda results: {"h": time_major(results[0].numpy())})

        wanted = [x, h0, module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0]
        for tensor in wanted:
            tensor.requires_grad_()

        def training() -> tuple[Any, ...]:
            h, _ = module(x, state)
            return h, *torch.autograd.grad(h, wanted, dh)

        def outputs(results: tuple[Any, ...]) -> Arrays:
            h, dx, dh0, dWx, dWh, db = (result.detach().numpy() for result in results)
            gradients = {
                name: reorder_gates(point, d.T, "ifgo", OUR_GATES)
                for name, d in (("dWx", dWx), ("dWh", dWh), ("db", db))
            }
            return {"h": time_major(h), "dx": time_major(dx), "dh0": dh0[0], **gradients}

        return Task({"": training}, outputs)

    def _step(self, point: Point, arrays: Arrays) -> Task:
        torch = self.torch
        make_module = torch.nn.LSTMCell if point.cell == "lstm" else torch.nn.RNNCell
        module = self._with_weights(make_module(point.D, point.H), point, arrays, "").eval()
        x, h0, c0 = (torch.from_numpy(arrays[name].reshape(point.N, -1)) for name in ("x", "h0", "c0"))
        state = (h0, c0) if point.cell == "lstm" else h0
        with torch.inference_mode():
            frozen = torch.jit.freeze(torch.jit.trace(module, (x, state)))

        def way(module: Any) -> Callable[[], Any]:
            return torch.inference_mode()(lambda: module(x, state))

        def outputs(results: Any) -> Arrays:
            states = results if point.cell == "lstm" else [results]
            return dict(zip("hc", (s.numpy() for s in states), strict=False))

        return Task({"cell": way(module), "traced cell": way(frozen)}, outputs)


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
        lax, sigmoid = jax.lax, jax.nn.sigmoid

        def cell(z: Any, c: Any) -> tuple[Any, Any]:
            if point.cell == "rnn":
                return np_.tanh(z), c
            i, f, o, g = np_.split(z, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np_.tanh(g)
            return sigmoid(o) * np_.tanh(c), c

        def forward(x: Any, h0: Any, Wx: Any, Wh: Any, b: Any, *, unroll: int) -> Any:
            def step(state: Any, zx: Any) -> Any:
                h, c = state
                h, c = cell(zx + h @ Wh, c)
                return (h, c), h

            c0 = np_.zeros_like(h0) if point.cell == "lstm" else None
            return lax.scan(step, (h0, c0), x @ Wx + b, unroll=unroll)[1]

        def step(x: Any, h: Any, c: Any, Wx: Any, Wh: Any, b: Any) -> Any:
            return cell(b + x @ Wx + h @ Wh, c)

        def training(dh: Any, *arguments: Any, unroll: int) -> Any:
            h, pull_back = jax.vjp(functools.partial(forward, unroll=unroll), *arguments)
            return h, *pull_back(dh)

        on_device = {name: np_.asarray(array) for name, array in arrays.items()}
        weights = [on_device[name] for name in ("Wx", "Wh", "b")]
        if point.task == "step":
            states = ["h", "c"] if point.cell == "lstm" else ["h"]
            c0 = on_device["c0"] if point.cell == "lstm" else None
            arguments = [on_device["x"][:, 0], on_device["h0"], c0, *weights]
            return Task(
                {"": self._jitted(step, arguments)},
                lambda results: {name: np.asarray(r) for name, r in zip(states, results, strict=False)},
            )

        arguments = [np_.asarray(time_major(arrays["x"])), on_device["h0"], *weights]
        if point.task == "training":
            arguments = [np_.asarray(time_major(arrays["dh"])), *arguments]
        function = training if point.task == "training" else forward
        unrolls = [unroll for unroll in self.UNROLLS if unroll <= point.T]
        ways = {f"unroll={n}": self._jitted(functools.partial(function, unroll=n), arguments) for n in unrolls}

        def outputs(results: Any) -> Arrays:
            values = results if point.task == "training" else [results]
            named = dict(zip(("h", *GRADIENTS), map(np.asarray, values), strict=False))
            return named | {name: time_major(named[name]) for name in ("h", "dx") if name in named}

        return Task(ways, outputs)

    def _jitted(self, function: Callable[..., Any], arguments: list[Any]) -> Callable[[], Any]:
        jitted, wait = self.jax.jit(function), self.jax.block_until_ready
        return lambda: wait(jitted(*arguments))


class OnnxRuntime(Peer):
    """A one-node ONNX model with constant weights, which the session packs once."""

    title = "ONNX Runtime"
    packages = ("onnxruntime", "onnx")

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
        feed = {"x": time_major(arrays["x"]), "h0": arrays["h0"][None], "c0": arrays["c0"][None]}
        if point.task == "inference":
            feed["c0"] = np.zeros_like(feed["c0"])
        feed = {argument.name: feed[argument.name] for argument in session.get_inputs()}

        binding, value = session.io_binding(), self.runtime.OrtValue
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(array))
        for result in session.get_outputs():
            binding.bind_ortvalue_output(result.name, value.ortvalue_from_shape_and_type(result.shape, np.float32))

        def run_bound() -> list[np.ndarray]:
            session.run_with_iobinding(binding)
            return binding.get_outputs()

        def outputs(results: list[Any]) -> Arrays:
            named = zip("hc", (r if isinstance(r, np.ndarray) else r.numpy() for r in results), strict=False)
            return {name: time_major(r[:, 0]) if r.ndim == 4 else r[0] for name, r in named}

        return Task({"run": lambda: session.run(None, feed), "bound": run_bound}, outputs)

    def _model(self, point: Point, arrays: Arrays) -> bytes:
        onnx: Any = import_module("onnx")
        helper, real = onnx.helper, onnx.TensorProto.FLOAT
        Wx, Wh, b = (reorder_gates(point, arrays[name], OUR_GATES, "iofg") for name in ("Wx", "Wh", "b"))
        constants = {"W": Wx.T[None], "R": Wh.T[None], "B": np.concatenate([b, np.zeros_like(b)])[None]}
        states = ["h0", "c0"] if point.cell == "lstm" else ["h0"]
        state_shape = [1, point.N, point.H]
        if point.task == "step":
            results = dict.fromkeys(["Y_h", "Y_c"][: len(states)], state_shape)
            node_outputs = ["", *results]
        else:
            results = {"Y": [point.T, 1, point.N, point.H]}
            node_outputs = ["Y"]
        node = helper.make_node(
            point.cell.upper(), ["x", "W", "R", "B", "", *states], node_outputs, hidden_size=point.H
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
        Wx, Wh, b = (reorder_gates(point, arrays[name], OUR_GATES, "figo") for name in ("Wx", "Wh", "b"))
        weights = [operations.constant(np.ascontiguousarray(a.T[None])) for a in (Wx, Wh, b)]
        lengths = operations.constant(np.full(N, T, np.int32))
        h0, c0 = arrays["h0"][:, None], arrays["c0"][:, None]
        values = [arrays["x"], h0, c0 if point.task == "step" else np.zeros_like(c0)]
        if point.cell == "lstm":
            inputs = [operations.parameter(v.shape, np.float32) for v in values]
            node = operations.lstm_sequence(*inputs, lengths, *weights, H, "forward")
        else:
            values = values[:2]
            inputs = [operations.parameter(v.shape, np.float32) for v in values]
            node = operations.rnn_sequence(*inputs, lengths, *weights, H, "forward", ["tanh"])
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
            named = zip("hc", (request.get_output_tensor(i).data for i in range(len(results))), strict=False)
            return {name: r[:, 0].copy() for name, r in named}

        return Task({"": infer}, outputs)


PEERS: dict[str, type[Peer]] = {
    "rnnkernels": RnnKernels,
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
