"""Layers on layers, in one direction or two: composed of what `_direction` does, with dropout in between."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from rnnkernels import _direction, _sequence
from rnnkernels._checks.arrays import check_axes
from rnnkernels._checks.cells import Sizes
from rnnkernels._checks.gradients import check_given_gradient
from rnnkernels._checks.layers import check_one_direction, suffixes
from rnnkernels._checks.settings import check_choice, check_count
from rnnkernels._checks.stacks import check_stack_cache, check_stack_dstate, check_stack_state, check_step_state
from rnnkernels._packed import PackedWeights
from rnnkernels._recurrent import STATE_NAMES, Family, sum_to
from rnnkernels._results import ForwardResult, LayerGradients
from rnnkernels._threads import threads_for
from rnnkernels.kernels.simd import LANES
from rnnkernels.stacks import StackCache

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Stack:
    """Weights of all layers and directions, each a part, and what happens between layers; nobody changes it."""

    family: Family
    parts: tuple[PackedWeights, ...]
    """Layer by layer, the reverse direction after the other one."""
    directions: int
    dropout: float
    variational: bool

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.parts) // self.directions

    @property
    def suffixes(self) -> list[str]:
        """Of the parts."""
        return suffixes(self.layers, self.directions)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.parts[0].dtype

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """All weights and biases by name, read-only."""
        return {
            name + suffix: values
            for suffix, part in zip(self.suffixes, self.parts, strict=True)
            for name, values in part.parameters.items()
        }

    def forward(
        self,
        x: Any,
        states: tuple[Any, ...],
        rng: np.random.Generator | None,
        keep_cache: bool,
        num_threads: int | None,
        outputs: str = "all",
        memory_budget: int | None = None,
        **options: Any,
    ) -> ForwardResult[Any, Any]:
        """Run over whole sequences; with `rng` outputs of all layers but the last are dropped."""
        check_choice("outputs", outputs, ("all", "last"))
        if memory_budget is not None:  # each part has its share
            options["memory_budget"] = check_count("memory_budget", memory_budget) // len(self.parts)
        x = _direction.in_dtype(x, self.dtype)
        check_axes("x", x, "(N, T, D)")
        (N, T, _), count, family = x.shape, len(self.parts), self.family
        names, shape = STATE_NAMES[family.cell.states], (count, N, self.parts[0].H)
        given = [check_stack_state(name, state, shape) for name, state in zip(names, states, strict=True)]
        caches, last, masks = [], [], []
        for layer in range(self.layers):
            first = layer * self.directions
            wanted = outputs if layer == self.layers - 1 else "all"

            def run(
                direction: int, threads: int | None, first: int = first, x: np.ndarray = x, wanted: str = wanted
            ) -> Any:
                part = first + direction
                of_part = tuple([None if state is None else state[part] for _, state in given])
                return _direction.forward(
                    family,
                    self.parts[part],
                    x,
                    of_part,
                    keep_cache,
                    threads,
                    reverse=direction == 1,
                    outputs=wanted,
                    **options,
                )

            results = self._each_direction(run, _sequence.plan_forward, first, N, T, num_threads)
            caches += [result.cache for result in results]
            last += [result.state for result in results]
            x = results[0].h if self.directions == 1 else np.concatenate([result.h for result in results], axis=-1)
            if layer < self.layers - 1:
                masks.append(None if rng is None or self.dropout == 0 else self._draw_mask(rng, x.shape))
                if masks[-1] is not None:
                    x = _dropped(x, masks[-1], self.dropout)
        shapes = tuple([of_given for of_given, _ in given])
        cache = StackCache(tuple(caches), tuple(masks), self.directions, self.dropout, shapes) if keep_cache else None
        result: ForwardResult[Any, Any] = ForwardResult((x, cache))
        result.state = family.state(*[np.stack(each) for each in zip(*last, strict=True)])
        return result

    def backward(self, dh: Any, cache: Any, dstate: Any, num_threads: int | None) -> LayerGradients:
        """Propagate gradients back through whole sequences."""
        family = self.family
        cache, (N, T, _, H) = check_stack_cache(
            family.cell, cache, StackCache, family.cache, self.layers, self.directions, LANES
        )
        if dh is not None:
            width, shape = ("2H" if self.directions == 2 else "H"), (N, T, self.directions * H)
            dh = _direction.in_dtype(dh, self.dtype, "dh")
            if dh.ndim == 2:  # of the last hidden states alone
                dh = check_given_gradient("dh", dh, f"(N, {width})", (N, shape[2]), dh.dtype)
            else:
                dh = check_given_gradient("dh", dh, f"(N, T, {width})", shape, dh.dtype)
        states = family.cell.states
        last = check_stack_dstate(states, dstate, (len(self.parts), N, H))
        found: list[Any] = [None] * len(self.parts)
        for layer in reversed(range(self.layers)):
            first = layer * self.directions

            def run(direction: int, threads: int | None, first: int = first, dh: Any = dh) -> Any:
                part = first + direction
                own = dh if dh is None else dh[..., direction * H : (direction + 1) * H]
                of_part = tuple([None if gradient is None else gradient[part] for gradient in last])
                return _direction.backward(family, self.parts[part], own, cache.parts[part], of_part, threads)

            found[first : first + self.directions] = self._each_direction(
                run, _sequence.plan_backward, first, N, T, num_threads
            )
            dh = found[first].dx if self.directions == 1 else found[first].dx + found[first + 1].dx
            if layer > 0 and cache.masks[layer - 1] is not None:
                dh = _dropped(dh, cache.masks[layer - 1], cache.dropout)
        gradients = {
            name + suffix: gradient
            for suffix, part, result in zip(self.suffixes, self.parts, found, strict=True)
            for name, gradient in _direction.named_gradients(part, result).items()
        }
        everything = LayerGradients((dh, gradients))
        for name, shape in zip(STATE_NAMES[states], cache.shapes, strict=True):
            setattr(everything, f"d{name}", sum_to(np.stack([getattr(result, f"d{name}") for result in found]), shape))
        return everything

    def step(self, x: Any, state: Any) -> Any:
        """Advance by one step; returns the next state."""
        check_one_direction(self.directions, "step")
        states = check_step_state(self.family.cell.states, state, len(self.parts))
        following = []
        for part, packed in enumerate(self.parts):
            of_part = tuple([None if each is None else each[part] for each in states])
            following.append(_direction.step(self.family, packed, x, of_part))
            x = following[-1][0]
        return self.family.state(*[np.stack(each) for each in zip(*following, strict=True)])

    def _each_direction(
        self,
        run: Callable[[int, int | None], Any],
        make_plan: Callable[..., _sequence.Plan],
        first: int,
        N: int,
        T: int,
        num_threads: int | None,
    ) -> list[Any]:
        """Call `run` with the number of each direction and its `num_threads`; two at once where that pays.

        Two directions never wait for each other, so they share two threads better than the members of a team do; more
        threads than two make a team, for one direction after the other.
        """
        if self.directions == 1:
            return [run(0, num_threads)]
        packed = self.parts[first]
        plan = make_plan(packed.cell, Sizes(N, T, packed.D, packed.H), packed.dtype, num_threads, True)
        if plan.threads <= 2 and threads_for(2 * T * plan.flops, 2, num_threads) == 2:
            return side_by_side(lambda: run(0, 1), lambda: run(1, 1))
        return [run(0, num_threads), run(1, num_threads)]

    def _draw_mask(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Which outputs are kept; the same for both dtypes."""
        N, T, H = shape
        return rng.random((N, 1 if self.variational else T, H), np.float32) >= self.dropout


def _dropped(array: np.ndarray, mask: np.ndarray, dropout: float) -> np.ndarray:
    """What a mask leaves, scaled so that its mean stays; of gradients, too."""
    array = array * mask
    array *= array.dtype.type(1 / (1 - dropout))
    return array


def side_by_side(first: Callable[[], R], second: Callable[[], R]) -> list[R]:
    """Run two functions at once, the second one on a thread that ends with it; without one, both in turn.

    An interrupt of the first leaves the second to end by itself: threads never hold up the end of a process.
    """
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(second())
        except BaseException as error:  # for whoever asks for the result
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="rnnkernels-reverse", daemon=True).start()
    except RuntimeError:  # the system starts no more threads
        run()
    return [first(), future.result()]
