"""How the work of a call is divided among kernel calls."""

from collections.abc import Iterator

from rnnkernels._tuning import SEGMENT_FLOPS


def segments(count: int, flops_each: float) -> Iterator[tuple[int, int]]:
    """Divide `count` steps or rows into runs so short that Python sees an interrupt soon."""
    length = max(int(SEGMENT_FLOPS / max(flops_each, 1)), 1)
    for begin in range(0, count, length):
        yield begin, min(begin + length, count)
