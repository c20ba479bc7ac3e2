"""Several threads in one kernel: how they find together, share hidden units, and wait for each other.

The *leader*, the thread that was called, enters first and starts at once. Other threads may *join* while it works; the
leader looks for them at each chunk of steps and, once somebody has joined, closes the team: from then on each member
computes its share of the hidden units, with a barrier after each step. Nobody waits for a thread that has not entered
the kernel, and who comes too late returns at once; so a thread that never comes costs nothing.

Where parts of the work do not depend on one another, members take them one after the other instead; nobody waits but
the leader, for the last part.

A team is an int64 array of shape (2 + most members, WORDS): its first line counts the joined, the second holds what the
leader publishes, and then each member has a line for its barriers. Lines are apart so that no two share a cache line.
"""

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rnnkernels.kernels.jit import inlined, kernel
from rnnkernels.kernels.simd import I64, array_data

WORDS = 16
"""Words of a line: 128 bytes, as prefetchers fetch cache lines in pairs."""

PATIENCE = 1000
"""Turns of a waiting loop, each a pause of some 10 to 60 ns, before it gives way."""

SHORT_CHUNKS = 8
"""Chunks that a leader who is still alone keeps short."""

CLOSED = 1 << 32
JOINED, PUBLISHED, BARRIERS = 0, WORDS, 2 * WORDS
SIZE, START = PUBLISHED, PUBLISHED + 1
TAKEN, DONE = PUBLISHED, PUBLISHED + 1


def _atomic(emit):
    def codegen(context, builder, sig, args):
        pointer = builder.gep(array_data(context, builder, sig.args[0], args[0]), [args[1]])
        return emit(builder, pointer, *args[2:])

    return codegen


@intrinsic
def atomic_add(typingctx, array, index, number):
    """Add to a word; returns what it was."""
    signature = types.int64(array, types.intp, types.int64)
    return signature, _atomic(lambda builder, pointer, value: builder.atomic_rmw("add", pointer, value, "seq_cst"))


@intrinsic
def atomic_load(typingctx, array, index):
    """Read a word; later reads see what its writer wrote before."""
    return types.int64(array, types.intp), _atomic(lambda builder, pointer: builder.load_atomic(pointer, "seq_cst", 8))


@intrinsic
def atomic_store(typingctx, array, index, number):
    """Write a word, after all earlier writes."""

    def emit(builder, pointer, value):
        builder.store_atomic(value, pointer, "seq_cst", 8)
        return ir.Constant(I64, 0)

    return types.int64(array, types.intp, types.int64), _atomic(emit)


@intrinsic
def pause(typingctx):
    """Tell the processor that this is a waiting loop."""

    def codegen(context, builder, sig, args):
        triple = builder.module.triple
        if triple.startswith(("x86_64", "i686")):
            name, operands = "llvm.x86.sse2.pause", []
        elif triple.startswith(("aarch64", "arm64")):
            name, operands = "llvm.aarch64.hint", [ir.Constant(ir.IntType(32), 1)]
        else:
            return context.get_dummy_value()
        signature = ir.FunctionType(ir.VoidType(), [o.type for o in operands])
        builder.call(cgutils.get_or_insert_function(builder.module, signature, name), operands)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(typingctx):
    """Let another thread run on this processor, where the C library can say so; elsewhere do nothing."""

    def codegen(context, builder, sig, args):
        if sys.platform != "win32":
            signature = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, signature, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@inlined
def wait_until(team, index, number):
    """Wait until a word is at least `number`; returns it.

    After a while the wait gives way: the thread that is waited for may need this very processor.
    """
    turns = 0
    value = atomic_load(team, index)
    while value < number:
        pause()
        turns += 1
        if turns > PATIENCE:
            give_way()
        value = atomic_load(team, index)
    return value


@kernel
def join_team(team):
    """Enter as a member that is not the leader and wait for the start.

    Returns (member, size of the team, first step); member is -1 if it is too late.
    """
    member = atomic_add(team, JOINED, 1) + 1
    if member >= CLOSED or member > team.size // WORDS - 3:
        return -1, 0, 0
    size = wait_until(team, SIZE, 1)
    return (member if member < size else -1), size, atomic_load(team, START)


@kernel
def close_team(team, start, last):
    """Close the team as its leader: if somebody has joined, to go on together at step `start`; or at the end.

    Returns the size of the team, 1 while nobody has joined.
    """
    if atomic_load(team, JOINED) == 0 and not last:
        return 1
    size = 1 if last else min(atomic_add(team, JOINED, CLOSED), team.size // WORDS - 3) + 1
    if last:
        atomic_add(team, JOINED, CLOSED)
    atomic_store(team, START, start)
    atomic_store(team, SIZE, size)
    return size


@inlined
def steps_of_chunk(team, size, tries, chunk):
    """Steps of the next chunk: few at first if others may join, as they can do so only between chunks."""
    if size == 1 and tries < SHORT_CHUNKS and team.size > BARRIERS + WORDS:
        return max(chunk // 8, 1)
    return chunk


@inlined
def wait_for_team(team, member, size, round_number):
    """Barrier number `round_number` of the members: returns when all have come. Rounds count up from 1."""
    if size > 1:
        atomic_store(team, BARRIERS + member * WORDS, round_number)
        for other in range(size):
            wait_until(team, BARRIERS + other * WORDS, round_number)
    return round_number + 1


@inlined
def step_size(size, by_rows):
    """Members that must wait for one another at each step: none if each has sequences of its own."""
    return 1 if by_rows else size


@inlined
def share(count, member, size):
    """First and end of a member's share of `count` things."""
    return count * member // size, count * (member + 1) // size


@inlined
def member_number(team, leader):
    """Number of a member, where work is divided in parts that the members take one after the other."""
    return 0 if leader else atomic_add(team, JOINED, 1) + 1


@inlined
def take_part(team):
    """Number of the next part that nobody has taken, from 0 on; past the last one there is nothing left to do."""
    return atomic_add(team, TAKEN, 1)


@inlined
def finish_part(team):
    """Count a part as done."""
    atomic_add(team, DONE, 1)


@inlined
def wait_for_parts(team, leader, parts):
    """Return to the leader when all parts are done; who comes too late finds none, and returns at once."""
    if leader:
        wait_until(team, DONE, parts)
