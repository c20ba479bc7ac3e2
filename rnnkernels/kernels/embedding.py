"""Word embedding: rows of a table by index, and the sum of gradients into the rows.

Members of a team take parts of the work in turn: rows of the result, and columns of the sums, whose order stays.
"""

from rnnkernels.kernels.jit import kernel
from rnnkernels.kernels.layout import copy_row
from rnnkernels.kernels.simd import lanes, load, load_first, store, store_first
from rnnkernels.kernels.team import leave_team, open_to_members, share, take_part


@kernel
def word_embedding_gather(words, table, out, team, member, begin, end, parts):
    """out[w] = table[words[w]] for w = begin .. end - 1 of the flat `words`; overwrites these rows of `out` (W, D)."""
    width = table.shape[1]
    open_to_members(team, member)
    part = take_part(team)
    while part < parts:
        first, last = share(end - begin, part, parts)
        for w in range(begin + first, begin + last):
            copy_row(table, words[w] * width, out, w * width, width)
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
            source, target = w * width, words[w] * width
            for i in range(first * step, last * step, step):
                if width - i >= step:
                    store(table_gradient, target + i, load(table_gradient, target + i) + load(gradient, source + i))
                else:
                    old, new = (
                        load_first(table_gradient, target + i, width - i),
                        load_first(gradient, source + i, width - i),
                    )
                    store_first(table_gradient, target + i, width - i, old + new)
        part = take_part(team)
    leave_team(team, member)
