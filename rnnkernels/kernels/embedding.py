"""Word embedding: rows of a table by index, and the sum of gradients into the rows.

In a small call one thread does all at once, and looks at the indices as it uses them. Otherwise members of a team take
parts of the work in turn: rows of the result, and columns of the sums, whose order stays.
"""

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rnnkernels.kernels.jit import EntryPoints, inlined, kernel
from rnnkernels.kernels.simd import array_data, lanes, load, load_first, store, store_first
from rnnkernels.kernels.team import leave_team, open_to_members, share, take_part


@intrinsic
def copy_elements(typingctx, source, source_offset, target, target_offset, count):
    """Copy `count` elements by what the C library has for it, which is best at long rows."""

    def codegen(context, builder, sig, args):
        source, target = (
            builder.gep(array_data(context, builder, sig.args[i], args[i]), [args[i + 1]]) for i in (0, 2)
        )
        cgutils.memcpy(builder, target, source, args[4])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp, types.intp), codegen


@inlined
def _add_columns(source, source_offset, target, target_offset, first, end):
    """Add columns `first .. end` of a row to those of another; `first` is a multiple of LANES."""
    step = lanes(target)
    for i in range(first, end, step):
        here, there = source_offset + i, target_offset + i
        if end - i >= step:
            store(target, there, load(target, there) + load(source, here))
        else:
            total = load_first(target, there, end - i) + load_first(source, here, end - i)
            store_first(target, there, end - i, total)


@kernel
def word_embedding_lookup(words, table, out):
    """out[w] = table[words[w]] for all of `words` (N, T); overwrites `out` (N, T, D). Checks the indices.

    Returns the number of words that are done: one whose index is outside the table ends the work.
    """
    width, flat = table.shape[1], words.reshape(-1)
    for w in range(words.size):
        word = flat[w]
        if word < 0 or word >= table.shape[0]:
            return w
        copy_elements(table, word * width, out, w * width, width)
    return words.size


@kernel
def word_embedding_sum(words, gradient, table_gradient):
    """table_gradient[words[w]] += gradient[w] in the order of `words` (N, T); accumulated. Checks the indices.

    Returns the number of words that are done, as `word_embedding_lookup`.
    """
    width, flat = table_gradient.shape[1], words.reshape(-1)
    for w in range(words.size):
        word = flat[w]
        if word < 0 or word >= table_gradient.shape[0]:
            return w
        _add_columns(gradient, w * width, table_gradient, word * width, 0, width)
    return words.size


def _arrays(dtype):
    return np.zeros((1, 1), np.intp), np.zeros((1, 1), dtype), np.zeros((1, 1, 1), dtype)


def _arrays_backward(dtype):
    words, table, rows = _arrays(dtype)
    return words, rows, table


LOOKUP = EntryPoints(word_embedding_lookup, _arrays)
SUM = EntryPoints(word_embedding_sum, _arrays_backward)


@kernel
def word_embedding_gather(words, table, out, team, member, begin, end, parts):
    """out[w] = table[words[w]] for w = begin .. end - 1 of the flat `words`; overwrites these rows of `out` (W, D)."""
    width = table.shape[1]
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(end - begin, part, parts)
        for w in range(begin + first, begin + last):
            copy_elements(table, words[w] * width, out, w * width, width)
        part = take_part(team)
    leave_team(team, member)


@kernel
def word_embedding_scatter(words, gradient, table_gradient, team, member, begin, end, parts):
    """table_gradient[words[w]] += gradient[w] in the order of w = begin .. end - 1; accumulated."""
    width = table_gradient.shape[1]
    step = lanes(gradient)
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share((width + step - 1) // step, part, parts)
        for w in range(begin, end):
            _add_columns(gradient, w * width, table_gradient, words[w] * width, first * step, min(last * step, width))
        part = take_part(team)
    leave_team(team, member)
