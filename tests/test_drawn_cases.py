"""Whatever composes, in random combinations: against the reference, and against other ways to compute it bit by bit.

RNNKERNELS_DRAWN_CASES is how many there are, RNNKERNELS_DRAWN_SEED another seed of them. A case depends on the seed and
its number alone, so that one that fails can be run by itself; it says how.
"""

import os
import pickle
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import DTYPES, assert_close, assert_same_bits, force_packing, make_arguments

import rnnkernels
from rnnkernels import _threads, _tuning, gru, lstm, reference, rnn
from rnnkernels.kernels.cell import cells
from rnnkernels.kernels.simd import TINY

SEED = int(os.environ.get("RNNKERNELS_DRAWN_SEED", "1"))
CASES = int(os.environ.get("RNNKERNELS_DRAWN_CASES", "150"))
WAYS = 3
"""How many more times each case is computed."""

MOST_WORK = {np.float32: 2e7, np.float64: 2e6}
"""Multiplications of a forward pass; the reference is in float64, and in longdouble, which is slow."""

BY_SEQUENCE = {"h", "last_h", "last_c", "dx", "dh0", "dc0"}
"""Results that are of each sequence; others are sums over the batch."""


class Case(NamedTuple):
    """What is computed."""

    key: str
    sizes: tuple[int, int, int, int]
    P: int
    """Columns of hidden states: H where they are not projected."""
    dtype: type[Any]
    values: dict[str, Any]
    """Of all arguments that are arrays, None for what is not given: in `dtype`, C-contiguous."""
    options: dict[str, Any]
    """Arguments that choose the cell."""
    lengths: np.ndarray | None
    reverse: bool
    resets: np.ndarray | None
    chunk_rows: int | None
    """Rows over which weight gradients are summed, on which the bits of these depend; None leaves it to the package."""


class Way(NamedTuple):
    """How it is computed; no result depends on it, not in a single bit."""

    by: str = "function"
    """That, or a "layer", or in "pieces" of the steps, or by a "stream", or by "steps" of the function for these."""
    rows: np.ndarray | None = None
    """Which sequences, all without it."""
    num_threads: int | None = 1
    packed: bool | None = None
    """Whether weights are packed; if it is None the package decides."""
    outputs: str = "all"
    keep_cache: bool = True
    checkpoint_every: int | None = None
    memory_share: float | None = None
    """Part of what all steps take, for a budget of memory."""
    says_all: bool = False
    """Whether lengths and resets are given even if they change nothing."""
    layouts: dict[str, str] | None = None
    """In which form the arguments are given, by name."""
    pickles: bool = False
    border: int = 0
    """Step at which pieces begin."""
    chunk: tuple[int, int, int] | None = None
    """How the steps and units of forward passes are divided, see `_tuning`; None leaves it to the package."""
    is_repeated: bool = False
    """Whether the call was made once before, so that what small calls need is there."""


def draw_size(rng, most, common):
    """Often a common one, or else any from 1 to `most`."""
    return int(rng.choice(common)) if rng.random() < 0.6 else int(rng.integers(1, most + 1))


def draw_case(rng):
    key = str(rng.choice(list(cells)))
    cell = cells[key]
    dtype = DTYPES[rng.integers(2)]
    N, D = draw_size(rng, 20, [1, 1, 2, 3, 8]), draw_size(rng, 20, [0, 1, 1, 3, 16])
    T, H = draw_size(rng, 60, [0, 1, 1, 2, 5, 12]), draw_size(rng, 70, [1, 2, 3, 7, 8, 9, 16, 17, 32, 33])
    T = min(T, int(MOST_WORK[dtype] / (N * H * (D + H) * len(cell.gates))) + 1)
    G, P = len(cell.gates), draw_size(rng, 40, [1, 2, 7, 8, 16, 17]) if cell.projected else H
    x, h0, Wx, Wh, b = make_arguments(rng, G, N, T, D, H, dtype)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    projection = None
    if cell.projected:
        Wh, projection = normal(P, G * H) / dtype(np.sqrt(P)), normal(H, P) / dtype(np.sqrt(H))
    Wh *= dtype(0.8)  # a small matrix of random numbers may well be one that magnifies
    values = {"x": x, "h0": h0, "Wx": Wx, "Wh": Wh, "b": b, "c0": None, "bh": None, "peepholes": None}
    values["projection"] = projection

    def maybe_broadcast(width):
        return [None, normal(N, width), normal(N, width), normal(width), normal(1, width), dtype(0.5)][rng.integers(6)]

    values["h0"] = maybe_broadcast(P)
    options = {name: value for name, value in cell.options if name != "cell_clip"}
    if "c" in cell.states:
        values["c0"] = maybe_broadcast(H)
    if cell.name == "gru" and rng.random() < 0.7:
        values["bh"] = normal(G * H) / 2
    if cell.own:
        if rng.random() < 0.6:
            values["peepholes"] = normal(G - 1, H) / 2
        if rng.random() < 0.6 or (values["peepholes"] is None and "coupled" not in options):
            options["cell_clip"] = float(rng.choice([0.25, 1.0, np.inf]))
    if rng.random() < 0.2:
        options["clip"] = float(rng.choice([0.5, 2.0, 8.0]))
    values["dh"] = [None, normal(N, P), *[normal(N, T, P)] * 4][rng.integers(6)]
    share = rng.choice([0, 0.8])
    for name in cell.states:
        values[f"dlast_{name}"] = maybe_broadcast(P if name == "h" else H) if rng.random() < share else None
    lengths = [None, None, np.full(N, T), rng.integers(0, T + 1, N), np.sort(rng.integers(0, T + 1, N))[::-1].copy()]
    lengths = lengths[rng.integers(len(lengths))]
    if lengths is not None and rng.random() < 0.2:
        lengths[rng.integers(N)] = 0
    resets = rng.random((N, T)) < rng.choice([0.02, 0.2, 0.9]) if rng.random() < 0.35 else None
    chunk_rows = [None, 3, 40][rng.integers(3)]
    return Case(key, (N, T, D, H), P, dtype, values, options, lengths, bool(rng.random() < 0.35), resets, chunk_rows)


def draw_layouts(rng, case):
    """Forms for some of the arguments: those that keep the numbers, and the dtype of the results."""
    layouts = {}
    for name, value in case.values.items():
        if np.ndim(value) and rng.random() < 0.5:
            layouts[name] = str(rng.choice(list(LAYOUTS)))
        elif name in ("h0", "c0") and value is not None and rng.random() < 0.3:
            layouts[name] = "wide"
    for name in ("lengths", "resets"):
        if rng.random() < 0.5:
            layouts[name] = str(rng.choice(["spaced", "fortran", "read-only"]))
    return layouts


def draw_way(rng, case, first=False):
    N, T, *_ = case.sizes
    has_rows = not first and N > 1 and rng.random() < 0.4
    by = "function"
    if not first:
        by = str(rng.choice(["function", "function", "layer", "layer", "pieces", "stream", "steps"]))
    keep_cache = bool(first or rng.random() < 0.8)
    little: dict[str, Any] = {}
    if keep_cache and rng.random() < 0.3:
        little["checkpoint_every"] = int(rng.integers(1, T + 3))
    elif keep_cache and rng.random() < 0.2 and not (by == "layer" and case.reverse):
        little["memory_share"] = float(rng.choice([0.1, 0.4, 0.8]))
    way = Way(
        by=by,
        rows=rng.permutation(N)[: rng.integers(1, N + 1)] if has_rows else None,
        num_threads=[None, None, 1, 1, 2, 2, 3, 4][rng.integers(8)],
        packed=[None, False, True][rng.integers(3)],
        outputs=str(rng.choice(["all", "all", "last"])),
        keep_cache=keep_cache,
        says_all=bool(rng.random() < 0.2),
        layouts=draw_layouts(rng, case) if rng.random() < 0.4 else None,
        pickles=bool(rng.random() < 0.15),
        border=int(rng.integers(0, T + 1)),
        chunk=[None, (1, 1, 1), (1, 6, 1 << 16), (1 << 12, 1, 1 << 13)][rng.integers(4)],
        is_repeated=bool(rng.random() < 0.4),
        **little,
    )
    if way.is_repeated and rng.random() < 0.7:  # what a small call must be
        way = way._replace(num_threads=None, packed=None, layouts=None, checkpoint_every=None, memory_share=None)
    return way


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def surrounded(array):
    """C-contiguous, so that kernels get this very memory: what they read beyond it is NaN."""
    room = np.full(array.size + 128, np.nan, array.dtype)[64 : 64 + array.size].reshape(array.shape)
    room[...] = array
    return room


LAYOUTS = {
    "fortran": np.asfortranarray,
    "backward": lambda array: array[..., ::-1].copy()[..., ::-1],
    "spaced": lambda array: np.repeat(array, 3, axis=-1)[..., ::3],
    "read-only": read_only,
    "unaligned": lambda array: (
        np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    ),
    "swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "surrounded": surrounded,
}


def as_given(case, way):
    """Values as arguments: of the sequences that are wanted, in their layouts, and NaN where nobody may look."""
    (N, T, *_), values = case.sizes, dict(case.values)
    lengths, resets = case.lengths, case.resets
    if way.says_all:
        lengths = np.full(N, T) if lengths is None else lengths
        resets = np.zeros((N, T), bool) if resets is None else resets
    if lengths is not None:
        padding = np.arange(T) >= lengths[:, np.newaxis]
        for name in ("x", "dh"):
            if np.ndim(values[name]) == 3:
                values[name] = values[name].copy()
                values[name][padding] = np.nan
    values |= {"lengths": lengths, "resets": resets}
    for name, value in values.items():
        is_shared = name in ("Wx", "Wh", "b", "bh", "peepholes", "projection") or np.ndim(value) == 0 or len(value) != N
        if name in ("h0", "c0") or name.startswith("dlast"):
            is_shared = np.ndim(value) < 2 or len(value) != N
        if way.rows is not None and not is_shared:
            values[name] = value[way.rows]
        layout = (way.layouts or {}).get(name)
        if layout == "wide":
            values[name] = np.float64(values[name])
        elif layout is not None and np.ndim(value):
            values[name] = LAYOUTS[layout](values[name])
    return values


def options_of(case, values):
    """Arguments that choose the cell, and weights that not every cell has."""
    further = {name: values[name] for name in ("bh", "peepholes", "projection") if values[name] is not None}
    return {**case.options, **further}


def arriving(case, values):
    """Gradient of the last state."""
    dstate = tuple(values[f"dlast_{name}"] for name in cells[case.key].states)
    return None if all(part is None for part in dstate) else dstate


def named(gradients):
    return {**dict(zip(("dx", "dh0", "dWx", "dWh", "db"), gradients, strict=True)), **vars(gradients)}


def state_of(state):
    return {f"last_{name}": part for name, part in state._asdict().items()}


class NumPyAnd:
    """NumPy with another tanh."""

    def __init__(self, tanh):
        self.tanh = tanh

    def __getattr__(self, name):
        return getattr(np, name)


def reference_of(case, disturbance=None):
    """Results of the reference in a wider dtype.

    With a disturbance arguments and activations are a few units in the last place of the dtype of the case off.
    """
    wide = np.longdouble if case.dtype is np.float64 else np.float64
    values = {name: value if value is None else np.asarray(value, wide) for name, value in case.values.items()}
    name, states = cells[case.key].name, {} if case.values["c0"] is None else {"c0": values["c0"]}
    spans = {"lengths": case.lengths, "reverse": case.reverse, "resets": case.resets}
    with pytest.MonkeyPatch.context() as patch:
        if disturbance is not None:

            def off(value, ulps):
                return value * (1 + ulps * np.finfo(case.dtype).eps * disturbance.uniform(-1, 1, np.shape(value)))

            values = {argument: value if value is None else off(value, 4) for argument, value in values.items()}
            states = {argument: values[argument] for argument in states}
            sigmoid = reference.sigmoid
            patch.setattr(reference, "np", NumPyAnd(lambda z: off(np.tanh(z), 2)))
            patch.setattr(reference, "sigmoid", lambda z: off(sigmoid(z), 2))
        arguments = [values[argument] for argument in ("x", "h0", "Wx", "Wh", "b")]
        result = getattr(reference, f"{name}_forward")(*arguments, **states, **options_of(case, values), **spans)
        gradients = getattr(reference, f"{name}_backward")(values["dh"], result.cache, dstate=arriving(case, values))
    return {"h": result.h, **state_of(result.state), **named(gradients)}


def run(case, way):
    """Results by name; those of the forward pass only where there is no cache."""
    with pytest.MonkeyPatch.context() as patch:
        if way.packed is not None:
            force_packing(patch, way.packed)
        if way.chunk is not None:
            for name, size in zip(("CHUNK_BYTES", "CHUNK_ROWS"), way.chunk, strict=False):
                patch.setattr(_tuning, f"FORWARD_{name}", size)
            patch.setattr(_tuning, "STRIP_BYTES", way.chunk[2])
        if case.chunk_rows is not None:
            patch.setattr(_tuning, "BACKWARD_CHUNK_ROWS", case.chunk_rows)
        values = as_given(case, way)
        if way.by == "pieces":
            return run_in_pieces(case, way, values)
        if way.by in ("stream", "steps"):
            return run_by_steps(case, way, values)
        is_stack = way.by == "layer" and case.reverse
        states = {name: values[name] for name in ("h0", "c0")}
        N, widths = len(values["x"]), (case.P, case.sizes[3])
        both = {"outputs": way.outputs, "keep_cache": way.keep_cache, "num_threads": way.num_threads}
        both |= {"lengths": values["lengths"], "resets": values["resets"], "checkpoint_every": way.checkpoint_every}
        both = {name: option for name, option in both.items() if option is not None}
        dh, dstate = values["dh"], arriving(case, values)
        if is_stack:  # the second direction of it; the first one comes to nothing

            def twice(state, width):
                return None if state is None else np.stack([np.broadcast_to(state, (N, width))] * 2)

            states = {name: twice(state, width) for (name, state), width in zip(states.items(), widths, strict=False)}
            dh = None if dh is None else np.concatenate([np.zeros_like(dh), dh], axis=-1)
            dstate = None if dstate is None else tuple(map(twice, dstate, widths))
        if "c" not in cells[case.key].states:
            del states["c0"]
        if way.by == "layer":
            layer = layer_of(case, is_stack)
            forward, backward = (lambda **options: layer.forward(values["x"], **states, **options)), layer.backward
        else:
            name = cells[case.key].name
            arguments = values["x"], states.pop("h0"), *[values[each] for each in ("Wx", "Wh", "b")]
            both |= options_of(case, values) | states | ({"reverse": True} if case.reverse else {})
            function, backward = getattr(rnnkernels, f"{name}_forward"), getattr(rnnkernels, f"{name}_backward")

            def forward(**options):
                return function(*arguments, **options)

        if way.is_repeated:
            before = forward(**both)
            if way.keep_cache:
                backward(dh, before.cache, dstate=dstate, num_threads=way.num_threads)
        result = with_budget(forward, both, way.memory_share)
        found = {"h": result.h, **state_of(result.state)}
        if way.keep_cache:
            cache = pickle.loads(pickle.dumps(result.cache)) if way.pickles else result.cache
            gradients = backward(dh, cache, dstate=dstate, num_threads=way.num_threads)
            if way.by == "layer":
                found |= {f"d{parameter}": value for parameter, value in gradients[1].items()}
                found |= {"dx": gradients.dx, **vars(gradients)}
            else:
                found |= named(gradients)
        else:
            assert result.cache is None
        if is_stack:
            found = second_direction(case, found)
        if way.outputs == "last":
            assert_same_bits(found.pop("h"), found["last_h"])
        return found


def with_budget(forward, options, share):
    """Run forward, with that share of the memory that the whole cache takes, or with the least that is allowed."""
    if share is None:
        return forward(**options)
    kept = forward(**{**options, "checkpoint_every": None}).cache
    budget = max(int(share * sum(part.nbytes for part in kept[4:])), 1)
    try:
        return forward(**{**options, "checkpoint_every": None, "memory_budget": budget})
    except ValueError as error:
        least = int(re.search(r"takes ([0-9]+) at least", str(error))[1])
        assert least > budget
        return forward(**{**options, "checkpoint_every": None, "memory_budget": least})


def layer_of(case, is_stack):
    kind = getattr(rnnkernels, cells[case.key].name.upper())
    weights = {name: case.values[name] for name in ("Wx", "Wh", "b", "bh", "peepholes", "projection")}
    weights = {name: value for name, value in weights.items() if value is not None}
    if not is_stack:
        return kind(**weights, **case.options)
    return kind.from_parameters(weights | {f"{name}_reverse": w for name, w in weights.items()}, **case.options)


def second_direction(case, found):
    """Results of a layer with two directions for the second one, as far as they are kept apart."""
    of = {name.removesuffix("_reverse"): value for name, value in found.items() if name.endswith("_reverse")}
    of["h"] = found["h"][..., case.P :]
    of |= {name: value[1] for name, value in found.items() if name.startswith("last")}
    for name, width in (("h0", case.P), ("c0", case.sizes[3])):
        given = case.values[name]
        if f"d{name}" in found and (given is None or np.shape(given) == (case.sizes[0], width)):
            of[f"d{name}"] = found[f"d{name}"][1]
    return of


def run_in_pieces(case, way, values):
    """Two calls, the second of which begins in the state that the first has left."""
    N, T = values["x"].shape[:2]
    name = cells[case.key].name
    lengths = np.full(N, T) if values["lengths"] is None else values["lengths"]
    before = np.minimum(lengths, way.border)
    pieces = [(slice(0, way.border), before), (slice(way.border, T), lengths - before)]
    if case.reverse:
        pieces.reverse()
    states = {"h0": values["h0"], "c0": values["c0"]}
    h = np.zeros((N, T, case.P), case.dtype)
    for steps, of_piece in pieces:
        h0, c0 = states["h0"], {"c0": states["c0"]} if "c" in cells[case.key].states else {}
        arguments = [values["x"][:, steps], h0, *[values[each] for each in ("Wx", "Wh", "b")]]
        result = getattr(rnnkernels, f"{name}_forward")(
            *arguments,
            **c0,
            **options_of(case, values),
            lengths=None if values["lengths"] is None else of_piece,
            resets=None if values["resets"] is None else values["resets"][:, steps],
            reverse=case.reverse,
            keep_cache=way.keep_cache,
            num_threads=way.num_threads,
        )
        h[:, steps] = result.h
        states = {f"{name}0": part for name, part in result.state._asdict().items()}
    return {"h": h, **{f"last_{name[0]}": state for name, state in states.items()}}


def run_by_steps(case, way, values):
    """One step after the other, by a stream or by the function for steps, of all sequences side by side."""
    (N, T), widths = values["x"].shape[:2], (case.P, case.sizes[3])
    cell, weights = cells[case.key], [values[name] for name in ("Wx", "Wh", "b")]
    lengths = np.full(N, T) if values["lengths"] is None else values["lengths"]
    states = [values[f"{name}0"] for name in cell.states]
    states = [
        np.array(np.broadcast_to(0 if state is None else state, (N, width)), case.dtype)
        for state, width in zip(states, widths, strict=False)
    ]
    options, lasts = options_of(case, values), [state.copy() for state in states]
    h = np.zeros((N, T, case.P), case.dtype)
    if way.by == "stream":
        stream = getattr(rnnkernels, f"{cell.name.upper()}Stream")(*weights, *states, **options)
        if way.pickles:
            stream = pickle.loads(pickle.dumps(stream))
        if values["lengths"] is None and values["resets"] is None and not case.reverse:
            h[:, : way.border] = stream.steps(values["x"][:, : way.border])
            h[:, way.border :] = stream.steps(values["x"][:, way.border :])
            return {"h": h, **{f"last_{name}": getattr(stream, name) for name in cell.states}}
    everyone = np.arange(N)
    for step in range(T):
        at = lengths - 1 - step if case.reverse else np.full(N, step)
        valid = step < lengths
        x = np.zeros((N, case.sizes[2]), case.dtype)
        x[valid] = values["x"][everyone[valid], at[valid]]
        anew = valid & values["resets"][everyone, np.maximum(at, 0)] if values["resets"] is not None else ~valid
        if way.by == "stream":
            stream.reset(rows=anew)
            stream.step(x)
            states = [getattr(stream, name) for name in cell.states]
        else:
            states = [np.where(anew[:, np.newaxis], case.dtype(0), state) for state in states]
            function = getattr(rnnkernels, f"{cell.name}_step_forward")
            *states, _ = function(
                x, *states, *weights, **options, keep_cache=way.keep_cache, num_threads=way.num_threads
            )
        h[everyone[valid], at[valid]] = states[0][valid]
        for last, state in zip(lasts, states, strict=True):
            last[valid] = state[valid]
    return {"h": h, **{f"last_{name}": last for name, last in zip(cell.states, lasts, strict=True)}}


def assert_agrees_with_reference(case, found):
    """Within the tolerance, or a few times as far as the result moves if arguments and activations are a little off.

    That can be far where a relu or a clip begins, and where a recurrence magnifies. What has decayed counts as zero.
    """
    decayed = 1000 * TINY["float" if case.dtype is np.float32 else "double"]
    want = reference_of(case)
    assert found.keys() == want.keys() - ({"h"} if "h" not in found else set())
    failed = {}
    for name, value in found.items():
        try:
            assert_close(value, want[name], case.dtype)
        except AssertionError as error:
            failed[name] = error
            if "above" not in str(error):
                raise AssertionError(f"{name}: {error}") from None
    if not failed:
        return
    moved = dict.fromkeys(failed, 0.0)
    disturbance = np.random.default_rng(0)
    for _ in range(10):
        other = reference_of(case, disturbance)
        moved = {name: max(most, float(np.abs(other[name] - want[name]).max())) for name, most in moved.items()}
    for name, error in failed.items():
        assert np.abs(found[name] - want[name]).max() <= 10 * moved[name] + decayed, f"{name}: {error}"
    print(f"as sensitive, or decayed: {', '.join(failed)}")


def assert_same_results(case, way, got, want):
    for name, value in got.items():
        expected = want.get(name)
        if expected is None and name == "h":  # the case itself was of the last state only
            continue
        assert expected is not None, f"{name} is new"
        if way.rows is not None:
            width = case.P if name == "dh0" else case.sizes[3]
            is_whole = name not in ("dh0", "dc0") or expected.shape == (case.sizes[0], width)
            if name not in BY_SEQUENCE or not is_whole:
                continue
            expected = expected[way.rows]
        try:
            assert_same_bits(value, expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def described(case):
    N, T, D, H = case.sizes
    given = {name: np.shape(value) for name, value in case.values.items() if value is not None}
    resets = None if case.resets is None else np.argwhere(case.resets).tolist()
    return (
        f"{case.key}, N, T, D, H, P = {N}, {T}, {D}, {H}, {case.P}, {case.dtype.__name__}, {case.options},"
        f" lengths={case.lengths}, reverse={case.reverse}, resets={resets},"
        f" {given}, chunk_rows={case.chunk_rows}"
    )


@pytest.fixture
def no_small_calls():
    """Keep no small calls of other sizes of chunks, neither of cases before nor for the tests behind."""

    def forget():
        for module in (rnn, gru, lstm):
            families = [value for name, value in vars(module).items() if name.endswith("FAMILY")]
            for family in (*families, *getattr(module, "VARIANTS", {}).values()):
                family.small.clear()
                family.small_backward.clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize("number", range(CASES))
def test_drawn_case__agrees_and_has_the_same_bits_each_way(number, monkeypatch, whole_teams, no_small_calls):
    monkeypatch.setattr(_threads, "available_threads", lambda: 4)
    rng = np.random.default_rng([SEED, number])
    case = draw_case(rng)
    ways = [draw_way(rng, case, first=k == 0) for k in range(1 + WAYS)]
    doing, before = "drawing", pickle.dumps(case.values)
    try:
        doing = f"the first way, {ways[0]}"
        want = run(case, ways[0])
        assert_agrees_with_reference(case, want)
        for way in ways[1:]:
            doing = f"{way}\n  unlike {ways[0]}"
            assert_same_results(case, way, run(case, way), want)
        assert pickle.dumps(case.values) == before, "an argument has changed"
    except Exception:
        print(
            f"RNNKERNELS_DRAWN_SEED={SEED} RNNKERNELS_DRAWN_CASES={number + 1} python -m pytest"
            f' tests/test_drawn_cases.py -k "[{number}]"\n  {described(case)}\n  {doing}'
        )
        raise


@pytest.mark.parametrize("options", [{"coupled": True}, {"cell_clip": 1.0}])
def test_byte_order_of_weights__does_not_change_the_dtype(options):
    columns = 3 if "coupled" in options else 4
    x, h0, Wx, Wh, b = make_arguments(np.random.default_rng(0), columns, 1, 1, 1, 1, np.float32)
    assert rnnkernels.lstm_forward(x, h0, Wx, LAYOUTS["swapped"](Wh), b, **options).h.dtype == np.float32


@pytest.mark.parametrize("key", ["rnn", "gru", "lstm"])
def test_gradient_of_the_last_state_without_steps__is_that_of_the_first(key):
    arguments = make_arguments(np.random.default_rng(0), len(cells[key].gates), 1, 0, 1, 1, np.float64)
    for module in (rnnkernels, reference):
        cache = getattr(module, f"{key}_forward")(*arguments).cache
        assert getattr(module, f"{key}_backward")(np.ones((1, 1)), cache)[1] == 1
