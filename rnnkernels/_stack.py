"""Layers on layers, in one direction or two: composed of what `_direction` does, with dropout in between.

Two directions run side by side, and two layers of one direction overlap, on two threads where that pays. Layers overlap
on whole sequences only: with lengths, resets or checkpoints, and while somebody profiles, they run one after the other.
Layers that overlap have all their outputs, or gradients, at the same time, also where there is no cache.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rnnkernels import _direction, _sequence
from rnnkernels import _recorder as recorder
from rnnkernels import _tuning as tuning
from rnnkernels._checks.arrays import check_axes
from rnnkernels._checks.caches import refuse_budget
from rnnkernels._checks.gradients import check_given_gradient
from rnnkernels._checks.layers import check_one_direction, suffixes
from rnnkernels._checks.settings import check_choice, check_count
from rnnkernels._checks.stacks import check_stack_cache, check_stack_dstate, check_stack_states, check_step_state
from rnnkernels._memory import empty
from rnnkernels._packed import PackedWeights
from rnnkernels._pipeline import Pass, run_passes
from rnnkernels._recurrent import STATE_NAMES, Family, sum_to
from rnnkernels._results import ForwardResult, LayerGradients
from rnnkernels._spans import find_spans, whole_spans
from rnnkernels._threads import second_thread, side_by_side, threads_for
from rnnkernels.kernels.simd import LANES
from rnnkernels.stacks import StackCache

OVERLAPS: dict[str, tuple[Callable[..., _sequence.Plan], Callable[[_sequence.Plan, int], int], int]] = {
    "forward": (_sequence.plan_forward, _sequence.forward_block, 0),
    "backward": (_sequence.plan_backward, _sequence.backward_block, 1),
}
"""How to make a plan, how many steps a block has, and how many blocks a layer must be ahead beside the one it is at."""


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

    @cached_property
    def suffixes(self) -> list[str]:
        """Of the parts."""
        return suffixes(self.layers, self.directions)

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64."""
        return self.parts[0].dtype

    @cached_property
    def step_flops(self) -> int:
        """Work of a step of one sequence, of all parts."""
        return sum(_sequence.step_flops(part.sizes(1, 1), part.cell) for part in self.parts)

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
        x = _direction.in_dtype(x, self.dtype)
        check_axes("x", x, "(N, T, D)")
        (N, T, _), count, family = x.shape, len(self.parts), self.family
        if memory_budget is not None:  # each part has its share
            least = count * self._least_budget(N, T, options.get("lengths"), options.get("resets"))
            if check_count("memory_budget", memory_budget) < least:
                refuse_budget(memory_budget, least)
            options["memory_budget"] = memory_budget // count
        named = dict(zip(STATE_NAMES[family.cell.states], states, strict=True))
        given = check_stack_states(named, count, self.parts[0].sizes(N, T))
        kind = ("forward", keep_cache) if all(option is None for option in options.values()) else None
        caches, make_last, masks = [], [], []
        with self._overlapping(kind, N, T, num_threads) as (threads, later):
            for layer in range(self.layers):
                first = layer * self.directions
                wanted = outputs if layer == self.layers - 1 else "all"

                def run(
                    direction: int, own_threads: int | None, first: int = first, x: np.ndarray = x, wanted: str = wanted
                ) -> Any:
                    part = first + direction
                    of_part = tuple([None if state is None else state[part] for _, state in given])
                    return _direction.forward(
                        family,
                        self.parts[part],
                        x,
                        of_part,
                        keep_cache,
                        own_threads,
                        reverse=direction == 1,
                        outputs=wanted,
                        later=later,
                        **options,
                    )

                results = self._each_direction(run, _sequence.plan_forward, first, N, T, threads, kind)
                caches += [result.cache for result in results]
                make_last += [result.make_state for result in results]
                x = results[0].h if self.directions == 1 else np.concatenate([result.h for result in results], axis=-1)
                if layer < self.layers - 1:
                    masks.append(None if rng is None or self.dropout == 0 else self._draw_mask(rng, x.shape))
                    if masks[-1] is not None:
                        x = _dropped(x, masks[-1], self.dropout, later)
        if self.directions == 1 and outputs == "last":
            x = make_last[-1]()[0]
        shapes = tuple([of_given for of_given, _ in given])
        cache = StackCache(tuple(caches), tuple(masks), self.directions, self.dropout, shapes) if keep_cache else None
        result: ForwardResult[Any, Any] = ForwardResult((x, cache))
        result.make_state = lambda: family.state(
            *[_stacked(each) for each in zip(*[make() for make in make_last], strict=True)]
        )
        return result

    def _least_budget(self, N: int, T: int, lengths: Any, resets: Any) -> int:
        """Bytes with which the part that needs most can keep what it has to."""
        spans = find_spans(N, T, lengths, False, resets)
        if spans is not None:
            N, T = spans.table.shape[1], spans.longest
        if N * T == 0:
            return 0
        sizes = [part.sizes(N, T) for part in self.parts]
        return max(_sequence.steps_for(self.family.cell, each, self.dtype, spans, 0)[1] for each in sizes)

    def backward(self, dh: Any, cache: Any, dstate: Any, num_threads: int | None) -> LayerGradients:
        """Propagate gradients back through whole sequences."""
        family = self.family
        cache, sizes = check_stack_cache(
            family.cell, cache, StackCache, family.cache, self.layers, self.directions, LANES
        )
        N, T, P, symbol = sizes.N, sizes.T, sizes.P, family.cell.h_symbol
        if dh is not None:
            width, shape = ("2" * (self.directions == 2) + symbol), (N, T, self.directions * P)
            dh = _direction.in_dtype(dh, self.dtype, "dh")
            if dh.ndim == 2:  # of the last hidden states alone
                dh = check_given_gradient("dh", dh, f"(N, {width})", (N, shape[2]), dh.dtype)
            else:
                dh = check_given_gradient("dh", dh, f"(N, T, {width})", shape, dh.dtype)
        states = family.cell.states
        last = None if dstate is None else check_stack_dstate(states, dstate, len(self.parts), sizes)
        found: list[Any] = [None] * len(self.parts)
        turned = whole_spans(N, T, True) if self.directions == 2 else None
        is_plain = all(
            part.checkpoints is None and (part.spans is None or part.spans is turned) for part in cache.parts
        )
        kind = ("backward",) if is_plain else None
        with self._overlapping(kind, N, T, num_threads) as (threads, later):
            for layer in reversed(range(self.layers)):
                first = layer * self.directions

                def run(direction: int, own_threads: int | None, first: int = first, dh: Any = dh) -> Any:
                    part = first + direction
                    own = dh
                    if dh is not None and self.directions == 2:
                        own = dh[..., direction * P : (direction + 1) * P]
                    of_part = last and tuple([None if gradient is None else gradient[part] for gradient in last])
                    return _direction.backward(
                        family, self.parts[part], own, cache.parts[part], of_part, own_threads, later
                    )

                found[first : first + self.directions] = self._each_direction(
                    run, _sequence.plan_backward, first, N, T, threads, kind
                )
                dh = found[first].dx if self.directions == 1 else found[first].dx + found[first + 1].dx
                if layer > 0 and cache.masks[layer - 1] is not None:
                    dh = _dropped(dh, cache.masks[layer - 1], cache.dropout, later)
        gradients = {
            name + suffix: gradient
            for suffix, part, result in zip(self.suffixes, self.parts, found, strict=True)
            for name, gradient in _direction.named_gradients(part, result).items()
        }
        everything = LayerGradients((dh, gradients))
        for name, shape in zip(STATE_NAMES[states], cache.shapes, strict=True):
            setattr(everything, f"d{name}", sum_to(_stacked([getattr(result, f"d{name}") for result in found]), shape))
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
        return self.family.state(*[_stacked(each) for each in zip(*following, strict=True)])

    def _overlapping(
        self, kind: tuple[Any, ...] | None, N: int, T: int, num_threads: int | None
    ) -> contextlib.AbstractContextManager[tuple[int | None, list[Pass] | None]]:
        """Threads that each pass of a `with` block may have, and a list to put them off to, if there is to be one.

        At the end of the block these run, two layers at a time. `kind` begins with the direction, or is None if passes
        are not over whole sequences or keep checkpoints; then layers run one after the other.
        """
        if kind is None or self.directions == 2 or not self._can_overlap(kind[0], N, T, num_threads):
            return contextlib.nullcontext((num_threads, None))
        return self._put_off(kind, N, T)

    @contextlib.contextmanager
    def _put_off(self, kind: tuple[Any, ...], N: int, T: int) -> Iterator[tuple[int | None, list[Pass] | None]]:
        """What `_overlapping` says, where layers overlap if a second thread comes."""
        with second_thread(self._kind(kind, 0, N, T)) as has_second:
            later: list[Pass] | None = [] if has_second else None
            yield 1, later
            if later:
                run_passes(later)

    def _kind(self, kind: tuple[Any, ...] | None, first: int, N: int, T: int) -> tuple[Any, ...] | None:
        """What calls have in common whose time is the same, from a part of the stack on."""
        if kind is None:
            return None
        part = self.parts[first]
        return *kind, part.cell.key, *part.sizes(N, T), part.dtype, len(self.parts) - first, self.directions

    def _can_overlap(self, direction: str, N: int, T: int, num_threads: int | None) -> bool:
        """Whether two layers at a time are a better use of two threads than teams are, and nobody profiles."""
        if N * T * self.step_flops < tuning.OVERLAP_FLOPS or recorder.listeners:
            return False
        sizes = [part.sizes(N, T) for part in self.parts]
        of_step = [_sequence.step_flops(each, self.family.cell) for each in sizes]
        whole, most = sum(of_step), max(of_step)
        if most > tuning.OVERLAP_STEP_FLOPS:
            return False
        make_plan, find_steps, ahead = OVERLAPS[direction]
        plans = [make_plan(self.family.cell, each, self.dtype, num_threads, True) for each in sizes]
        if threads_for(T * whole, 2, num_threads) < 2 or any(plan.threads > 2 or plan.by_rows for plan in plans):
            return False
        steps = max(find_steps(plan, T) for plan in plans)
        longest = max(whole / 2, most) + (1 + ahead) * min(steps / T, 1) * most
        return whole >= tuning.OVERLAP_GAIN * longest

    def _each_direction(
        self,
        run: Callable[[int, int | None], Any],
        make_plan: Callable[..., _sequence.Plan],
        first: int,
        N: int,
        T: int,
        num_threads: int | None,
        kind: tuple[Any, ...] | None,
    ) -> list[Any]:
        """Call `run` with the number of each direction and its `num_threads`; two at once where that pays.

        Two directions never wait for each other, so they share two threads better than the members of a team do; more
        threads than two make a team, for one direction after the other.
        """
        if self.directions == 1:
            return [run(0, num_threads)]
        packed = self.parts[first]
        plan = make_plan(packed.cell, packed.sizes(N, T), packed.dtype, num_threads, True)
        if plan.threads <= 2 and threads_for(2 * T * plan.flops, 2, num_threads) == 2:
            with second_thread(self._kind(kind, first, N, T)) as has:
                return side_by_side(lambda: run(0, 1), lambda: run(1, 1)) if has else [run(0, 1), run(1, 1)]
        return [run(0, num_threads), run(1, num_threads)]

    def _draw_mask(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Which outputs are kept; the same for both dtypes."""
        N, T, H = shape
        return rng.random((N, 1 if self.variational else T, H), np.float32) >= self.dropout


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """As `np.stack` has it, in a third of the time where arrays are small."""
    whole = empty((len(arrays), *arrays[0].shape), arrays[0].dtype)
    for k, array in enumerate(arrays):
        whole[k] = array
    return whole


def _dropped(array: np.ndarray, mask: np.ndarray, dropout: float, later: list[Pass] | None) -> np.ndarray:
    """What a mask leaves, scaled so that its mean stays; of gradients, too. Of a pass that was put off, as it runs."""
    left, factor = empty(array.shape, array.dtype), array.dtype.type(1 / (1 - dropout))

    def drop(begin: int, end: int) -> None:
        part = left[:, begin:end]
        np.multiply(array[:, begin:end], mask if mask.shape[1] == 1 else mask[:, begin:end], out=part)
        part *= factor

    if later is None:
        drop(0, array.shape[1])
    else:
        later.append(later.pop().before(drop))
    return left
