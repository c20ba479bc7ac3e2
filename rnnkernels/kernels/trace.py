"""Times of phases, taken inside the kernels while a call is profiled.

A trace is an int64 array of shape (members, chunks, WORDS): for each member of a team and each chunk of steps that it
worked on, when it began, which steps it held, and, for a sample of the chunks, the time spent in each phase. An empty
trace records nothing. Times count ticks of the processor's clock, which runs at a constant rate.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rnnkernels.kernels.jit import inlined, kernel

PHASES = ("gather", "project", "recur", "cell", "accumulate", "scatter", "wait")
"""What a chunk's time is divided in; `wait` is the time at barriers."""

GATHER, PROJECT, RECUR, CELL, ACCUMULATE, SCATTER, WAIT = range(len(PHASES))
BEGIN, START, STEPS = range(len(PHASES), len(PHASES) + 3)

FIRST_SAMPLES, SAMPLING = 16, 4
"""The phases of the first chunks are timed, and of one chunk in so many after them: reading the clock three times per
step took 4 % of the time of steps of 1.5 us, on an AMD EPYC (Zen 3)."""

WORDS = 16
"""Words of a record: two cache lines, so that members do not write to the same one."""


@intrinsic
def clock(typingctx):
    """Ticks of the processor's clock since some moment."""

    def codegen(context, builder, sig, args):
        arm = builder.module.triple.startswith(("aarch64", "arm64"))
        name = "llvm.readsteadycounter" if arm else "llvm.readcyclecounter"
        signature = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [])

    return types.int64(), codegen


@inlined
def begin_chunk(trace, member, chunk, start, steps):
    """Record when a chunk of steps begins; returns the time if its phases are to be timed, else 0."""
    if trace.shape[1] == 0:
        return 0
    now = clock()
    record = min(chunk, trace.shape[1] - 1)
    trace[member, record, BEGIN] = now
    trace[member, record, START] = start
    trace[member, record, STEPS] = steps
    return now if chunk < FIRST_SAMPLES or chunk % SAMPLING == 0 else 0


@inlined
def lap(trace, member, chunk, phase, last):
    """Add the time since `last` to a phase; returns the time, or 0 if `last` is 0."""
    if last == 0:
        return 0
    now = clock()
    trace[member, min(chunk, trace.shape[1] - 1), phase] += now - last
    return now


@kernel
def read_clock():
    """The clock, for Python."""
    return clock()
