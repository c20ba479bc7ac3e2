"""The compiled half of the package: plain functions on plain arrays, which check nothing.

Design
------
A layer has three phases, and a pass over a sequence runs them chunk by chunk of time steps, so that what one phase
writes is still in a cache when the next one reads it::

    forward     project     z = b + x @ Wx                      all steps of a chunk at once
                recur       z[t] += h[t-1] @ Wh; cell(z[t])     step by step, the only serial part
    backward    recur       dz[t] = cell'(dh[t]); dh[t-1] += dz[t] @ Wh.T
                accumulate  dx, dWx, dWh, db                    all steps of a chunk at once

Each product is `micro_kernel.multiply`, a register tile over packed panels; each cell works on one row of it that is
still in the first-level cache. Modules, from the ground up::

    jit             the decorators, and the disk cache
    simd            vectors as values
    linking         routines that kernels call by name: compiled once per dtype
    activations     sigmoid, tanh, exp of vectors
    team, trace     several threads in one kernel; times of phases
    micro_kernel    the register tile and the product
    layout          packing, gathering, scattering, transposing
    in_place        products with matrices as they lie
    phases          project, recur and accumulate
    passes          the only loops over time, for sequences, steps and streams of every cell
    spans           sequences in the order of a pass, and their states in that order
    cell            what a cell is to the rest of the package, and the registry
    rnn, lstm, gru  the cells: a description and three row functions each
    embedding, affine, loss         the other layers
    roofline        what the processor can do at most

How to add a cell is in CONTRIBUTING.md.

Sequences in a batch
--------------------
The sequences of a pass are *spans* of rows of the caller's arrays, longer ones first: step t of all those that have one
are rows side by side, and rows of a chunk have no gaps. So a step costs what the sequences cost that have it, and
different lengths, both directions and states that begin anew are the same thing to a pass: `phases.Spans`.

Weights packed or in place
--------------------------
Packing a matrix pays where it is used often enough. A call of few steps reads its weights where they lie:
`in_place` packs a few panels of a part of the depth in scratch that stays in the nearest cache, and
multiplies by the same tiles; for a few rows it reads the matrix once, from one end of its rows to the other. The sums
have the same order, so the bits are the same.

The order of sums
-----------------
Each pre-activation starts from the bias and adds the products x[k] * Wx[k], then h[k] * Wh[k]. Either sum goes in parts
of `micro_kernel.SUM_DEPTH` products: a part starts from zero, adds its products in order by fused multiply-add, and is
then added to the rest, which keeps rounding errors small. Tiles, strips, chunks of steps and threads change nothing of
that; a cell treats each lane alike. So a sequence gives the same bits alone or in a batch, whole or in parts. Gradients
of weights sum over the time-major rows of a chunk, in such parts from the last row to the first, chunk after chunk; the
chunks follow from the sizes alone.

Contract
--------
a) Arguments are already checked: one float dtype, C-contiguous, consistent; indices in range.
b) A kernel raises nothing, holds no Python object, and runs without the GIL.
c) Arguments come in the order inputs, weights, outputs, scratch, and last the part of the work to do.
d) Each output is *overwritten* or *accumulated*; the part that is overwritten is never read before.
e) Nothing overlaps unless the docstring says so. What a cache holds is read-only.
f) Two specialisations of each kernel, float32 and float64.
g) Kernels need Numba's compiler: `NUMBA_DISABLE_JIT=1` leaves `rnnkernels.reference` only.
"""
