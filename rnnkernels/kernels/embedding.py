"""Word embedding: rows of a table by index, and the sum of gradients into the rows."""

from rnnkernels.kernels.jit import kernel
from rnnkernels.kernels.layout import copy_row
from rnnkernels.kernels.simd import lanes, load, load_first, store, store_first


@kernel
def word_embedding_gather(words, table, out, begin, end):
    """out[w] = table[words[w]] for w = begin .. end - 1 of the flat `words`; overwrites these rows of `out` (W, D)."""
    width = table.shape[1]
    for w in range(begin, end):
        copy_row(table, words[w] * width, out, w * width, width)


@kernel
def word_embedding_scatter(words, gradient, table_gradient, begin, end):
    """table_gradient[words[w]] += gradient[w] in the order of w = begin .. end - 1; accumulated."""
    width = table_gradient.shape[1]
    step = lanes(gradient)
    whole = width - width % step
    for w in range(begin, end):
        source, target = w * width, words[w] * width
        for i in range(0, whole, step):
            store(table_gradient, target + i, load(table_gradient, target + i) + load(gradient, source + i))
        if whole < width:
            rest = width - whole
            old = load_first(table_gradient, target + whole, rest)
            store_first(table_gradient, target + whole, rest, old + load_first(gradient, source + whole, rest))
