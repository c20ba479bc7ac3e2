"""What a whole program asked of the package, in a table and in plain words."""

from collections.abc import Sequence
from typing import Any

from rnnkernels._explain import explain
from rnnkernels._threads import available_threads
from rnnkernels.kernels.cell import cells
from rnnkernels.profiling import Call, kernels_text, time_text

SHORT_SECONDS = 20e-6
"""Calls that are shorter cost mostly what any call costs."""


def program_table(calls: Sequence[Call], seconds: float) -> str:
    """A line for calls of the same function and sizes, the longest first, and advice.

    Shares are of the wall time of the program without what recording took; calls of several Python threads at once may
    add up to more than it. Calls that compiled or loaded kernels count in totals, but not in what each takes, where
    there are others.
    """
    if not calls:
        return f"The program took {time_text(seconds)} and called no function of rnnkernels."
    kinds: dict[tuple[Any, ...], list[Call]] = {}
    for call in calls:
        kinds.setdefault((call.name, *call.sizes.items(), call.dtype), []).append(call)
    groups = sorted(kinds.values(), key=_seconds, reverse=True)
    covered, outside = _covered(calls), max(seconds - _covered(calls, recording=True), 0.0)
    recording, seconds = seconds - covered - outside, covered + outside
    lines = [f"{'function':<26}{'calls':>8}{'total':>10}{'share':>8}{'each':>10}{'of limit':>10}{'threads':>9}  sizes"]
    for group in groups:
        first, total, counted = group[0], _seconds(group), _without_code(group) or group
        limit, counted_seconds = sum(call.limit_seconds for call in counted), _seconds(counted)
        reached = f"{limit / counted_seconds:.0%}" if limit else ""
        threads = f"{max(call.joined for call in group)}/{first.threads}"
        sizes = ", ".join(f"{name} = {size}" for name, size in first.sizes.items())
        lines.append(
            f"{first.name:<26}{len(group):>8}{time_text(total):>10}{total / seconds:>8.1%}"
            f"{time_text(counted_seconds / len(counted)):>10}{reached:>10}{threads:>9}  {sizes}, {first.dtype}"
        )
    lines.append(f"{'outside the package':<26}{'':>8}{time_text(outside):>10}{outside / seconds:>8.1%}")
    lines.append(f"{'the whole program':<26}{len(calls):>8}{time_text(seconds):>10}")
    lines.append(f"{'recording, besides':<26}{'':>8}{time_text(recording):>10}")
    return "\n".join([*lines, *advice(groups, seconds, outside)])


def advice(groups: Sequence[Sequence[Call]], seconds: float, outside: float) -> list[str]:
    """What would make a program faster, the most rewarding first; nothing where there is little to gain."""
    found = []
    for how, cure in (
        ("compiled", "run `python -m rnnkernels compile` and measure again"),
        ("loaded", "each process does so once"),
    ):
        if busy := [call for group in groups for call in group if getattr(call, how)]:
            kernels = kernels_text(sum(getattr(call, how) for call in busy))
            found.append(f"{kernels} {how} meanwhile, in calls that took {time_text(_seconds(busy))}: {cure}.")
    if outside > seconds / 2:
        found.append(f"{outside / seconds:.0%} of the time is spent outside the package: look there first.")
    for group in map(_without_code, groups):
        total = _seconds(group)
        if not group or total < 0.05 * seconds:
            continue  # little to gain
        first = group[0]
        phases = {phase.name for call in group for phase in call.phases}
        spent = {n: sum(c.phase[n].seconds for c in group if n in c.phase) for n in phases}
        share = total / seconds
        if len(group) > 1 and first.name.endswith(("_step_forward", "RNN.step", "LSTM.step", "GRU.step")):
            found.append(
                f"{first.name}, {share:.0%}: {len(group)} single steps. A stream keeps its state and packed weights "
                "between steps; where inputs are known beforehand, one call for all steps is faster still."
            )
        elif len(group) > 1 and first.name.endswith("Stream.step"):
            found.append(
                f"{first.name}, {share:.0%}: {len(group)} single steps. Where inputs are known beforehand, `steps` "
                "takes a block; a loop that Numba compiles advances a stream without Python, see rnnkernels.nopython."
            )
        elif len(group) > 1 and "." not in first.name and spent.get("pack", 0.0) > 0.2 * total:
            found.append(
                f"{first.name}, {share:.0%}: {spent['pack'] / total:.0%} of it before the kernel starts, mostly for "
                "packing the same weights. Pack once: a layer or a stream; or give longer blocks of steps."
            )
        elif total / len(group) < SHORT_SECONDS:
            found.append(
                f"{first.name}, {share:.0%}: {len(group)} short calls. Longer blocks share the cost of a call."
            )
        if spent.get("wait", 0.0) > 0.3 * total:
            found.append(f"{first.name}, {share:.0%}: {spent['wait'] / total:.0%} of it waiting: fewer threads.")
        elif (threads := _threads_worth_while(first)) > first.threads:
            found.append(
                f"{first.name}, {share:.0%}: on {first.threads} thread{'s' * (first.threads > 1)}, with work for "
                f"{threads}: see `num_threads`, `set_num_threads` and RNNKERNELS_NUM_THREADS."
            )
        elif first.threads > 1 and all(call.joined < call.threads for call in group):
            found.append(
                f"{first.name}, {share:.0%}: alone, since threads did not come or gained too little; other programs "
                "may keep the processors busy."
            )
    return found


def _threads_worth_while(call: Call) -> int:
    """How many threads the call would take if it might have all processors."""
    cell, _, direction = call.name.lower().replace(".", "_").rpartition("_")
    if cell not in cells or not call.phases:
        return call.threads
    plans = explain(
        **call.sizes, cell=cell, dtype=call.dtype, training=direction == "backward", num_threads=available_threads()
    ).passes
    return next((plan.threads for plan in plans if plan.direction == direction), call.threads)


def _without_code(calls: Sequence[Call]) -> list[Call]:
    """Those whose time is that of the kernels, since none was compiled or loaded meanwhile."""
    return [call for call in calls if not (call.compiled or call.loaded)]


def _seconds(calls: Sequence[Call]) -> float:
    return sum(call.seconds for call in calls)


def _covered(calls: Sequence[Call], recording: bool = False) -> float:
    """Time during which at least one call ran, or was recorded as well.

    Calls may lie in one another, or beside one another on other threads.
    """
    covered, end = 0.0, 0.0
    for call in sorted(calls, key=lambda call: call.begin):
        stop = call.begin + call.seconds + recording * call.recording_seconds
        covered += max(stop - max(call.begin, end), 0.0)
        end = max(end, stop)
    return covered
