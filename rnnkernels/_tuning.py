"""Sizes of blocks, each with the measurement that chose it.

The depth of cache blocks and the register tile belong to the micro-kernel and stand there.
"""

FORWARD_CHUNK_BYTES = 192 * 1024
"""Pre-activations of one chunk of steps: they are written by the projection, and read and written by the recurrence,
and share a private cache of 512 KiB or more with the weights."""

STRIP_BYTES = 64 * 1024
"""Pre-activations of the units that the recurrence takes at once, written and read again before they leave a near
cache."""

FORWARD_CHUNK_ROWS = 48
"""Rows that a projection should have, so that weights that live in a far cache are read for many rows at a time."""

BACKWARD_CHUNK_ROWS = 256
"""Rows over which the products of the weight gradients sum, about: the steps of a sequence are divided in chunks of
like size. Backward passes of seven sizes were 0.92 to 1.01 times as fast with 128, 0.97 to 1.02 times with 512."""

SEGMENT_FLOPS = 2e9
"""Work of one kernel call, at the end of which Python sees an interrupt: some 0.03 s where products reach 70 GFLOP/s,
and less than a second where they reach 3."""

UNSEEN_FLOPS = 1e10
"""Work of a single step from which on it runs on a thread of its own, while the calling one looks for an interrupt: a
tenth of a second and more. To start the thread takes some 0.1 ms."""

THREAD_FLOPS = 1e7
"""Work that pays for one more thread: a thread that sleeps wakes up in about 0.1 ms, in which one core does 8e6."""

THREAD_ROWS, FAR_THREAD_ROWS, NEAR_BYTES = 2, 8, 2 << 20
"""Sequences for each thread from which on threads divide the batch: they then do not meet at each step, but each reads
all of Wh; so more where Wh is larger than NEAR_BYTES, a private cache. Else they divide hidden units. Two threads of an
Intel Xeon (Sapphire Rapids, 2 MiB of cache each; float32, best of interleaved calls) made LSTM inference so many times
as fast by dividing the batch or the units: 1.41 and 1.26 at N, T, D, H = 5, 60, 100, 140, 2.1 and 1.65 at 4, 150, 256,
256, 1.80 and 1.29 at 12, 60, 100, 140, 1.70 and 1.84 at 8, 40, 256, 384; but 1.37 and 2.14 at 4, 20, 650, 650, 1.25 and
1.74 at 12, 10, 1024, 1024. Training and vanilla RNNs fared alike."""

STEP_FLOPS = 20_000
"""Work of a step for each thread from which on threads divide hidden units: one core does it in some 0.3 us, and to
wait for one another takes 0.1 to 0.3 us. A vanilla RNN at 1, 20000, 16, 64 took 7.1 ms on two threads, 4.1 on one."""

WORTH = 1.25
"""How many times as fast a team must make a call."""

HARM, LITTLE_DOUBT = 2.0, 0.25
"""How many times as long as alone a call by a team may take before the next one is alone at once, and how much one
counts that gained something, but not enough, beside one that gained nothing. With 1.25 and 1 short visits to a kind of
call, as of peers that take turns, often found it alone though two threads made it 1.5 to 2 times as fast: the first
call after a pause may wait for the others (LSTM inference at 50, 50, 128, 128; 64, 50, 500, 500; 64, 168, 8, 64)."""

LEAST_REST, MOST_REST, MOST_REST_NS = 20, 1280, 10_000_000_000
"""For how many calls a kind goes on alone after a team was not worth it: each time twice as many as before, and for at
most 10 s. Beside six busy processes on two processors, loops of calls on two threads took 1.02 to 1.12 and 1.15 to 1.20
times as long as on one in the mean, at 1, 300, 256, 256 and 4, 150, 128, 128 (LSTM inference, float32)."""

OVERLAP_FLOPS, OVERLAP_STEP_FLOPS, OVERLAP_GAIN = 1e8, 8e5, 1.5
"""Work of a forward pass of a stack from which on two layers of it overlap on two threads, also backward; most work of
a forward step of a layer, above which teams are as fast or faster; and how many times as fast it has to be if blocks
take as long as their work says. Two layers of an LSTM at N, T, D, H = 1, T, 64, 64 were 1.08, 1.22, 1.35 times as fast
as on one thread with T = 300, 600, 1200 (39, 79, 157 MFLOP). At 1, 1400, 160, 160; 1, 1400, 224, 224; 1, 1300, 256, 256
they were 1.38, 1.30, 1.06 times as fast as with teams, backward 1.02, 0.96, 1.06 times. Backward passes in two chunks
(1, 500, 64, 128) were 0.86 to 0.95 times as fast as on one thread, in eight (2, 1000, 32, 128) 1.14 to 1.48 times
(medians of interleaved calls, float32, two processors of an Intel Xeon)."""

OVERLAP_BLOCKS, OVERLAP_BLOCK_FLOPS = 16, 4e6
"""Most blocks of a forward pass, and least work of a block: seven stacks were 1.36 to 1.78, 1.37 to 1.69, 1.25 to 1.68
times as fast as on one thread with 8, 16, 32 blocks; 1e6 and 8e6 were like 4e6."""

REVIEW_CALLS = 64
"""One call of so many is alone, to see what that takes; not tuned."""

# Of the next, where it says no more: medians of nine interleaved calls at N, T, D = 50, 17, 512 and V = 10,000,
# float32, AMD EPYC.

AFFINE_BLOCK_ROWS = 96
"""Rows of a part of the affine layer: whole tiles, and parts enough for the threads. Two threads took 84, 80, 126 and
132 ms with 48, 96, 192 and 384; one took 145 to 158."""

AFFINE_PART_PANELS = 16
"""Panels of a part of its weight gradients, each of which transposes the inputs for itself. Two threads took 181, 157,
159 and 164 ms with 4, 16, 64 and 256."""

PACKED_ROWS = 64
"""Rows of weights that a thread packs at a time: two threads packed the weights of an LSTM at D, H = 128, 128 in 0.16
ms with 16, 0.07 with 64, 0.08 with all; at 256, 512 in 0.40, 0.45 and 0.65 (medians of 40 calls, float32)."""

LOSS_BLOCK_ROWS = 16
"""Rows of scores that a thread takes at a time: 10.9, 8.1 and 7.9 ms with 4, 16 and 64. The loss adds the sums of these
parts, so that it depends on this number, but not on the threads."""

FUSED_BLOCK_ROWS, FUSED_PART_ROWS = 256, 64
FAR_FUSED_BLOCK_ROWS, FAR_FUSED_PART_ROWS = 512, 256
"""Rows of scores that the affine layer fused with the loss holds at a time, a multiple of SUM_DEPTH; and most rows of a
part of their input gradient, each of which reads all weights. The second pair is for weights of more than NEAR_BYTES:
in the place of the first it took 0.83 and 0.70 of the time on one thread, 1.02 and 0.91 on two, at N, T, D, V = 20, 35,
650, 10,000 and 50, 17, 512, 10,000; at 16, 50, 64, 1000 it would take 1.07 (float32; Xeon, Sapphire Rapids)."""

EMBEDDING_PART_ROWS = 256
"""Rows of an embedding that a thread copies at a time; not tuned, since copies are short."""

SMALL_FLOPS = 2 * THREAD_FLOPS
"""Work of a call up to which it is small: on one thread, whatever the number of threads, and in one kernel call."""

PACKED_FORWARD_STEPS = 14.0, 30.0
PACKED_BACKWARD_STEPS = 2.0, 4.5
"""Weights of M megabytes are packed, rather than read where they lie, from a + b / sqrt(M) steps on; in a forward pass
of N sequences from so many / (N + 1), since products of one sequence gain least by it. Fitted to the steps from which
on packing was faster, 2 to 45, at N = 1 to 16, H = D = 64 to 512, RNN and LSTM, float32 (Xeon, Sapphire Rapids), when
products in place took two rows at a time: where the rule was wrong a call took 1.1 times as long in most cases, and at
most 1.3 times."""

PACKED_LEAST_STEPS = 3
"""Steps from which on weights are packed at all."""

LAYER_FLOPS = 1_000_000
"""Work of a call of a layer up to which its natural weights are read where they lie, though there are packed ones:
small calls have less to prepare, 25 of 45 us. Above it they gained less, and backward passes lost at 1, 5, 128, 128 (N,
T, D, H; LSTM, float32; Xeon, Sapphire Rapids, in the company of other programs)."""
