"""The masked softmax loss: one pass for the largest score, one for the exponentials, one for the gradient."""

import math

import numpy as np

from rnnkernels.kernels.activations import exp_of_negative
from rnnkernels.kernels.jit import EntryPoints, kernel
from rnnkernels.kernels.layout import fill_row
from rnnkernels.kernels.simd import lanes, load, load_first, maximum, reduce_add, reduce_max, splat, store, store_first
from rnnkernels.kernels.team import leave_team, open_to_members, take_part


@kernel
def softmax_loss_alone(scores, labels, weights, batch, gradient, block):
    """Loss and gradient of all rows, in parts of `block` rows; overwrites `gradient`. Checks the labels.

    Returns the loss, not divided by `batch`, and the first row that counts whose label is outside, or else -1.
    """
    rows, words = scores.shape
    total = 0.0
    for begin in range(0, rows, block):
        end = min(begin + block, rows)
        for row in range(begin, end):
            if weights[row] != 0.0 and (labels[row] < 0 or labels[row] >= words):
                return total, row
        total += softmax_loss_rows(scores, labels, weights, batch, gradient, begin, end)
    return total, -1


def _examples(dtype):
    scores = np.zeros((1, 1), dtype)
    return scores, np.zeros(1, np.intp), np.zeros(1), 1, scores, 1


ALONE = EntryPoints(softmax_loss_alone, _examples)


@kernel
def softmax_loss(scores, labels, weights, batch, gradient, sums, team, member, begin, end, block):
    """Loss and gradient of rows `begin .. end`, in parts of `block` rows that the members of a team take in turn.

    Overwrites these rows of `gradient`, and `sums`: the loss of each part, not divided by `batch`, in float64.
    """
    open_to_members(team, member)
    parts = (end - begin + block - 1) // block
    part = take_part(team)
    while part < parts:
        row = begin + part * block
        sums[part] = softmax_loss_rows(scores, labels, weights, batch, gradient, row, min(row + block, end))
        part = take_part(team)
    leave_team(team, member)


@kernel
def softmax_loss_rows(scores, labels, weights, batch, gradient, begin, end):
    """Sum of weight * -log softmax(scores)[label] over rows `begin .. end` of `scores` (rows, V), and its gradient.

    Overwrites these rows of `gradient` with weight * (softmax(scores) - one at the label) / batch. A row of weight zero
    is not read: its gradient is zero. Returns the sum, not divided by `batch`, in float64.
    """
    width = scores.shape[1]
    step = lanes(scores)
    whole = width - width % step
    rest = width - whole
    total = 0.0
    for row in range(begin, end):
        weight, start = weights[row], row * width
        if weight == 0.0:
            fill_row(gradient, start, width, 0.0)
            continue
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

        label = labels[row]
        probability = gradient[row, label] / partition
        total += weight * (math.log(partition) - (float(scores[row, label]) - largest))
        scale = splat(scores, weight / (partition * batch))
        for i in range(0, whole, step):
            store(gradient, start + i, load(gradient, start + i) * scale)
        if rest > 0:
            store_first(gradient, start + whole, rest, load_first(gradient, start + whole, rest) * scale)
        gradient[row, label] = (probability - 1.0) * weight / batch
    return total
