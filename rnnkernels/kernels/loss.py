"""The masked softmax loss: one pass for the largest score, one for the exponentials, one for the gradient.

    scores = b + x @ w,  dx = dscores @ w.T,  dw = x.T @ dscores,  db = sum of dscores          (1)

Fused with an affine layer, equation (1), a block of rows goes through all of it before the next one is taken, from the
last to the first, so that there are never more scores than those of a block. Its rows are those that count, gathered
from where they lie. Products have the order of sums of the affine layer.
"""

import math

import numpy as np

from rnnkernels.kernels.activations import exp_of_negative
from rnnkernels.kernels.affine import input_gradient, multiply_natural, sum_rows
from rnnkernels.kernels.jit import EntryPoints, expanded, inlined, kernel
from rnnkernels.kernels.layout import (
    PANELS_AT_ONCE,
    block_width,
    copy_row,
    fill_row,
    pack_and_add_rows,
    pack_lines,
    pack_transposed_lines,
    transpose_rows,
    unit_count,
)
from rnnkernels.kernels.micro_kernel import DEPTH_BLOCK, VECTORS_PER_PANEL, multiply, panel_width
from rnnkernels.kernels.simd import (
    lanes,
    load,
    load_first,
    maximum,
    reduce_add,
    reduce_max,
    splat,
    store,
    store_first,
    without_tiny,
)
from rnnkernels.kernels.team import leave_team, open_to_members, take_part


@kernel
def softmax_loss_alone(scores, labels, weights, divisor, gradient, block):
    """Loss and gradient of all rows, in parts of `block` rows; overwrites `gradient`. Checks the labels.

    Returns the loss, not divided, and the first row that counts whose label is outside, or else -1.
    """
    rows, words = scores.shape
    total = 0.0
    for begin in range(0, rows, block):
        end = min(begin + block, rows)
        for row in range(begin, end):
            if weights[row] != 0.0 and (labels[row] < 0 or labels[row] >= words):
                return total, row
        total += softmax_loss_rows(scores, labels, weights, divisor, gradient, begin, end)
    return total, -1


def _examples(dtype):
    scores = np.zeros((1, 1), dtype)
    return scores, np.zeros(1, np.intp), np.zeros(1), 1.0, scores, 1


ALONE = EntryPoints(softmax_loss_alone, _examples)


@kernel
def softmax_loss(scores, labels, weights, divisor, gradient, sums, team, member, begin, end, block):
    """Loss and gradient of rows `begin .. end`, in parts of `block` rows that the members of a team take in turn.

    Overwrites these rows of `gradient`, and `sums`: the loss of each part, not divided, in float64.
    """
    open_to_members(team, member)
    parts = (end - begin + block - 1) // block
    part = take_part(team)
    while part < parts:
        row = begin + part * block
        sums[part] = softmax_loss_rows(scores, labels, weights, divisor, gradient, row, min(row + block, end))
        part = take_part(team)
    leave_team(team, member)


@kernel
def softmax_loss_rows(scores, labels, weights, divisor, gradient, begin, end):
    """Sum of weight * -log softmax(scores)[label] over rows `begin .. end` of `scores` (rows, V), and its gradient.

    Overwrites these rows of `gradient` with weight * (softmax(scores) - one at the label) / divisor. A row of weight
    zero is not read: its gradient is zero. Returns the sum, not divided, in float64.
    """
    width = scores.shape[1]
    total = 0.0
    for row in range(begin, end):
        if weights[row] == 0.0:
            fill_row(gradient, row * width, width, 0.0)
        else:
            total += softmax_loss_row(scores, row, width, labels[row], weights[row], divisor, gradient)
    return total


@inlined
def softmax_loss_row(scores, row, width, label, weight, divisor, gradient):
    """The same for one row, of which `width` columns are scores; `gradient` may be `scores`."""
    step, start = lanes(scores), row * scores.shape[1]
    whole = width - width % step
    rest = width - whole
    right = float(scores[row, label])
    largest_lanes = splat(scores, -math.inf)
    for i in range(0, whole, step):
        largest_lanes = maximum(largest_lanes, load(scores, start + i))
    largest = reduce_max(largest_lanes)
    for i in range(whole, width):
        largest = max(largest, scores[row, i])

    shift = splat(scores, largest)
    sums = splat(scores, 0.0)
    for i in range(0, whole, step):
        e = exp_of_negative(load(scores, start + i) - shift)
        sums = sums + e
        store(gradient, start + i, e)
    partition = float(reduce_add(sums))
    if rest > 0:
        e = exp_of_negative(load_first(scores, start + whole, rest) - shift)
        store_first(gradient, start + whole, rest, e)
        for i in range(whole, width):
            partition += gradient[row, i]

    probability = gradient[row, label] / partition
    scale = splat(scores, weight / (partition * divisor))
    for i in range(0, whole, step):
        store(gradient, start + i, without_tiny(load(gradient, start + i) * scale))
    if rest > 0:
        last = load_first(gradient, start + whole, rest) * scale
        store_first(gradient, start + whole, rest, without_tiny(last))
    gradient[row, label] = (probability - 1.0) * weight / divisor
    return weight * (math.log(partition) - (right - largest))


@kernel
def affine_softmax_loss_alone(x, w, b, labels, weights, divisor, wanted, dx, dw, db, rows, scores, scratch, block):
    """Loss of the scores b + x @ w, and with `wanted` its gradients, for all rows of `x` (rows, D). Checks the labels.

    Overwrites the gradients, and `rows`, `scores` and `scratch`: the rows that count, and their scores. Returns as
    `softmax_loss_alone`, and sums in the same parts of `block` rows.
    """
    inputs, words = w.shape
    count = 0
    for row in range(x.shape[0]):
        if weights[row] != 0.0:
            if labels[row] < 0 or labels[row] >= words:
                return 0.0, row
            copy_row(x, row * inputs, rows, count * inputs, inputs)
            count += 1
    multiply_natural(rows, 0, inputs, 1, count, w, 0, words, inputs, words, b, 0, scores, scratch)
    total = 0.0
    counted = 0
    for begin in range(0, x.shape[0], block):
        part = 0.0
        for row in range(begin, min(begin + block, x.shape[0])):
            if weights[row] != 0.0:
                part += softmax_loss_row(scores, counted, words, labels[row], weights[row], divisor, scores)
                counted += 1
        total += part
    if wanted:
        input_gradient(w, scores, count, dx, scratch)
        for row in range(x.shape[0] - 1, -1, -1):  # to their places; those that are still to go come before
            if weights[row] == 0.0:
                fill_row(dx, row * inputs, inputs, 0.0)
            else:
                counted -= 1
                copy_row(dx, counted * inputs, dx, row * inputs, inputs)
        last = (count - 1) * inputs
        multiply_natural(rows, last, 1, -inputs, inputs, scores, (count - 1) * words, -words, count, words,
                         db, -1, dw, scratch)  # fmt: skip
        sum_rows(scores, count, db)
    return total, -1


def _affine_examples(dtype):
    matrix, row = np.zeros((1, 1), dtype), np.zeros(1, dtype)
    return matrix, matrix, row, np.zeros(1, np.intp), np.zeros(1), 1.0, True, matrix, matrix, row, *(matrix,) * 3, 1


AFFINE_ALONE = EntryPoints(affine_softmax_loss_alone, _affine_examples)


@kernel
def affine_scores(x, w, start, scores, scratch, team, member, begin, end):
    """Scores = start + x @ w of a block of rows `x` (rows, D), for groups `begin .. end` of PANELS_AT_ONCE panels of w.

    Members of a team take groups in turn. Overwrites these columns of the rows of `scores`, which has columns in whole
    panels, as has the bias `start` (1, columns). Each member packs its groups in its row of `scratch`: all rows use
    them there, and w is never packed as a whole.
    """
    rows, depth = x.shape
    words, width, own = w.shape[1], block_width(x), scratch[member]
    open_to_members(team, member)
    group = begin + take_part(team)
    while group < end:
        column = group * width
        vectors = unit_count(x, min(width, words - column))
        pack_lines(w, column, words, words - column, 1, 0, depth, vectors, own, depth)
        multiply(x, 0, depth, rows, own, 0, depth, vectors,
                 start, column, 0, scores, column, scores.shape[1], False)  # fmt: skip
        group = begin + take_part(team)
    leave_team(team, member)


@kernel
def softmax_and_input_gradient(x, w, labels, weights, divisor, places, zeros, wanted, losses, scores, dx, xT, scratch,
                               team, member, begin, end, size):  # fmt: skip
    """Losses and, if `wanted`, gradients of the rows of a block, in parts `begin .. end` of `size` rows.

    Row r of `x` and of `scores` belongs to row places[r] of the labels, the weights, and of `dx` and `losses`, which
    are overwritten there; so are the scores, with their gradient, and `xT`, with the transpose of `x`, from the last
    row to the first. Members of a team take parts in turn. The transpose of dx = dscores @ w.T is w @ dscores.T, where
    w is read as it lies; scratch of each member holds that, some panels of dscores.T, and rows of dx.
    """
    rows, inputs = x.shape
    words, stride, own = w.shape[1], scores.shape[1], scratch[member]
    step = lanes(x)
    open_to_members(team, member)
    part = begin + take_part(team)
    while part < end:
        first = part * size
        count = min(size, rows - first)
        for row in range(first, first + count):
            place = places[row]
            losses[place] = softmax_loss_row(scores, row, words, labels[place], weights[place], divisor, scores)
        if wanted:
            transpose_rows(x, (first + count - 1) * inputs, inputs, count, inputs,
                           xT, rows - first - count, xT.shape[1], 0, unit_count(x, inputs))  # fmt: skip
            vectors = unit_count(x, count)
            columns = vectors * step
            panels = inputs * columns
            result = panels + DEPTH_BLOCK * (columns + step)
            for k in range(0, words, DEPTH_BLOCK):
                depth = min(DEPTH_BLOCK, words - k)
                pack_transposed_lines(scores, first * stride + k, stride, count, depth, 1, 0, vectors,
                                      0, unit_count(x, depth), own, panels, depth)  # fmt: skip
                if k == 0:
                    multiply(w, k, words, inputs, own, panels, depth, vectors,
                             zeros, 0, 0, own, 0, columns, False)  # fmt: skip
                else:
                    multiply(w, k, words, inputs, own, panels, depth, vectors,
                             own, 0, columns, own, 0, columns, False)  # fmt: skip
            lines = unit_count(x, inputs) * step
            transpose_rows(own, 0, -columns, inputs, count, own, result, lines, 0, vectors)
            for row in range(count):
                copy_row(own, result + row * lines, dx, places[first + row] * inputs, inputs)
        part = begin + take_part(team)
    leave_team(team, member)


def member_scratch(rows, size, inputs, step):
    """Elements of scratch that a member needs for the kernels of a block of rows, in parts of `size`; `step` lanes."""
    columns = (size + step - 1) // step * step
    lines = (inputs + step - 1) // step * step
    gradient = inputs * columns + DEPTH_BLOCK * (columns + step) + size * lines
    return max(max(rows, inputs) * PANELS_AT_ONCE * VECTORS_PER_PANEL * step, gradient)


@kernel
def accumulate_affine_gradients(xT, dscores, zeros, dw, db, edge, scratch, team, member, rows, is_first, begin, end):
    """Dw += x.T @ dscores and db += sum of dscores over a block of rows, for groups `begin .. end` of panels.

    From the last row to the first; they start from zero with the first block. Members of a team take groups in turn.
    `db` (1, columns) has whole panels; of `dw` (D, V) what is less than a panel is summed in `edge` instead.
    """
    inputs, words = dw.shape
    width, stride, own = panel_width(dw), dscores.shape[1], scratch[member]
    whole = words // width
    open_to_members(team, member)
    group = begin + take_part(team)
    while group < end:
        panel = group * PANELS_AT_ONCE
        count = min(PANELS_AT_ONCE, (words + width - 1) // width - panel)
        pack_and_add_rows(dscores, (rows - 1) * stride, stride, rows, words, 1, panel, count, own, 0, db, 0, is_first)
        direct = min(count, whole - panel)
        if direct > 0:
            add_product(xT, inputs, own, 0, rows, direct, zeros, is_first, dw, panel * width, words)
        if direct < count:
            add_product(xT, inputs, own, direct * rows * width, rows, 1, zeros, is_first, edge, 0, width)
        group = begin + take_part(team)
    leave_team(team, member)


@expanded
def add_product(a, rows, b, b0, depth, panels, zeros, is_first, total, here, stride):
    """Total += A @ B for some panels of columns from `here` on; it starts from zero if `is_first`."""
    if is_first:
        multiply(a, 0, a.shape[1], rows, b, b0, depth, panels * VECTORS_PER_PANEL,
                 zeros, 0, 0, total, here, stride, False)  # fmt: skip
    else:
        multiply(a, 0, a.shape[1], rows, b, b0, depth, panels * VECTORS_PER_PANEL,
                 total, here, stride, total, here, stride, False)  # fmt: skip
