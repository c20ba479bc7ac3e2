"""Spans of a batch: stretches of its sequences in the order of a pass, and states that change between the two orders.

A table of spans (5, S) has a column for each: row of its first step, number of its steps, sequence to which it belongs,
whether it begins with the initial state of the sequence, and whether it ends with the last one. The first two rows are
`places`, see `phases.Spans`.
"""

import numpy as np

from rnnkernels.kernels.jit import EntryPoints, expanded, kernel
from rnnkernels.kernels.layout import copy_row, fill_row

FIRST, LENGTH, SEQUENCE, BEGINS, ENDS = range(5)
ROWS = 5


@expanded
def _note(work, at, count, steps, first, length, sequence, begins, ends):
    """Keep a span, and count it among those of its length."""
    here = at + ROWS * count
    work[here + FIRST] = first
    work[here + LENGTH] = length
    work[here + SEQUENCE] = sequence
    work[here + BEGINS] = begins
    work[here + ENDS] = ends
    work[steps - length + 1] += 1


@kernel
def find_spans(lengths, resets, steps, onward, table, work):
    """Spans of sequences of these `lengths` (N,), of at most `steps`, that begin anew where `resets` (N, T) are true.

    Longer ones come first, else they stay in order. Without resets these have no element. Overwrites the beginning of
    the flat `table`, of 5 * S elements; there is room for size / 5 spans, N and one for each reset. `work` has so many
    elements and T + 2. Checks the lengths.

    Returns S, steps of all spans, of the longest and of the shortest, and whether spans are whole sequences in order.
    If a length is out of range, S is -1.
    """
    room, kept, is_new = table.size // ROWS, steps + 2, resets.size > 0
    for k in range(kept):
        work[k] = 0
    count, total = 0, 0
    for n in range(lengths.size):
        length = lengths[n]
        if length < 0 or length > steps:
            return -1, 0, 0, 0, False
        total += length
        row = n * steps + (length - 1 if onward < 0 else 0)
        begin, begins = 0, 1
        if is_new:
            for t in range(length):
                if resets[n, length - 1 - t if onward < 0 else t]:
                    if t > 0 and count < room:  # another thread may change resets at any time
                        _note(work, kept, count, steps, row + onward * begin, t - begin, n, begins, 0)
                        count += 1
                    begin, begins = t, 0
        if count < room:
            _note(work, kept, count, steps, row + onward * begin, length - begin, n, begins, 1)
            count += 1
    for k in range(steps + 1):
        work[k + 1] += work[k]
    in_order = count == lengths.size
    for s in range(count):
        here = kept + ROWS * s
        shorter = steps - work[here + LENGTH]
        place = work[shorter]
        work[shorter] = place + 1
        for k in range(ROWS):
            table[k * count + place] = work[here + k]
        in_order = in_order and place == s == work[here + SEQUENCE] and work[here + BEGINS] == 1
    if count == 0:
        return 0, 0, 0, 0, in_order
    return count, total, table[count * LENGTH], table[count * LENGTH + count - 1], in_order


@kernel
def check_spans(table, onward, batch, steps, longest, in_order):
    """Steps of the spans of a `table`; -1 if they leave the rows of the batch, or longer ones do not come first.

    The first one is the `longest`, and if they are `in_order` there are as many as sequences.
    """
    total, rows, spans = 0, batch * steps, table.shape[1]
    if (in_order and spans != batch) or longest != (table[LENGTH, 0] if spans > 0 else 0):
        return -1
    for s in range(spans):
        first, length, sequence = table[FIRST, s], table[LENGTH, s], table[SEQUENCE, s]
        if length < 0 or length > steps or sequence < 0 or sequence >= batch:
            return -1
        if s > 0 and length > table[LENGTH, s - 1]:
            return -1
        last = first + onward * (length - 1)
        if length > 0 and (min(first, last) < 0 or max(first, last) >= rows):
            return -1
        total += length
    return total


@kernel
def spread_states(state, table, mark, spread):
    """spread[s] = state[sequence of s] if s has the mark, a row of `table`, or else 0; overwrites `spread` (S, H)."""
    width = state.shape[1]
    for s in range(table.shape[1]):
        if table[mark, s] != 0:
            copy_row(state, table[SEQUENCE, s] * width, spread, s * width, width)
        else:
            fill_row(spread, s * width, width, 0.0)


@kernel
def collect_states(states, table, mark, found):
    """found[sequence of s] = state after s for all s that have the mark; overwrites these rows of `found`.

    Of `states` it takes the H columns of `found` (N, H). They are a track, see `passes`, or (1, S, W): the last ones.
    """
    spans, width = table.shape[1], found.shape[1]
    after, shorter, of_shorter = 0, spans, 0  # steps of spans behind s, the first shorter one, and steps from it on
    for s in range(spans - 1, -1, -1):
        length, row = table[LENGTH, s], s
        if s + 1 < spans and table[LENGTH, s + 1] < length:
            shorter, of_shorter = s + 1, after
        after += length
        if length > 0 and states.shape[0] > 1:
            row += spans + shorter * (length - 1) + of_shorter
        if table[mark, s] != 0:
            copy_row(states, row * states.shape[2], found, table[SEQUENCE, s] * width, width)


def _find_arguments(_):
    line = np.zeros(1, np.int64)
    return line, np.zeros((1, 1), np.bool_), 1, 1, line, line


def _check_arguments(_):
    return np.zeros((ROWS, 1), np.int64), 1, 1, 1, 1, True


def _arrays(dtype):
    state = np.zeros((1, 1), dtype)
    return state, np.zeros((ROWS, 1), np.int64), 1, state


def _arrays_of_steps(dtype):
    state, *others = _arrays(dtype)
    return state[np.newaxis], *others


FIND = EntryPoints(find_spans, _find_arguments)
CHECK = EntryPoints(check_spans, _check_arguments)
SPREAD = EntryPoints(spread_states, _arrays)
COLLECT = EntryPoints(collect_states, _arrays_of_steps)
