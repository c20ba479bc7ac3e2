"""Several threads in one kernel: how they find together, share hidden units, and wait for each other.

The *leader*, the thread that was called, rings a bell when it enters. Threads that listen (`wait_for_bell`) *join* it.
The leader looks for them at each chunk of steps and, once somebody has joined, closes the team: from then on each
member computes its share, with a barrier where one needs what another computes. Nobody waits for a thread that has not
entered the kernel, but for a moment for those that heard the bell; and who comes too late returns at once. So a thread
that never comes costs nothing. Where members that meet at each step lose their processors to other processes so often
that the leader would be faster alone, it breaks the team up between two chunks and goes on.

Where parts of the work do not depend on one another, members take them one after the other instead; nobody waits but
the leader, for the last part.

A team is an int64 array of shape (3 + members, WORDS): one line counts the joined, one holds what the leader publishes,
one is for the bell, and then each member has a line for its barriers and lost time. No two lines share a cache line.
"""

import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rnnkernels.kernels.jit import expanded, inlined, kernel
from rnnkernels.kernels.simd import I64, array_data
from rnnkernels.kernels.trace import clock

WORDS = 16
"""Words of a line: 128 bytes, as prefetchers fetch cache lines in pairs."""

PATIENCE = 1000
"""Turns of a waiting loop, each a pause of some 10 to 60 ns, before it gives way."""

WELCOME = 10000
"""Turns for which a leader waits for threads that are awake: they need up to 0.1 ms to enter the kernel."""

IDLE_TURNS, BUSY_TURNS = PATIENCE + 300, PATIENCE + 30000
"""Turns for which a thread listens before it goes to sleep: while there is no team about as long as it takes to wake
up, 0.1 ms on an AMD EPYC (Zen 4) under Linux, so that listening never costs much more than sleeping would have; and
between the kernel calls of a team some 10 ms, after which there is nothing for it to do there soon."""

FORGIVEN_WAITS = 3
"""Waits for which a leader has to give way before it thinks of breaking the team up."""

RUNG = 1
"""What the bell says when it is rung."""

CLOSED = 1 << 32
JOINED, PUBLISHED, BELL, BARRIERS = 0, WORDS, 2 * WORDS, 3 * WORDS
SIZE, START, BROKEN_UP = PUBLISHED, PUBLISHED + 1, PUBLISHED + 2
EXPECTED, FORGIVEN = BELL + 1, BELL + 2
TAKEN, DONE = PUBLISHED, PUBLISHED + 1
LOST, LONG_WAITS, BEGAN = 1, 2, 3  # in the line of a member
AWAKE, AT_WORK = 0, 1  # in the roster of a pool


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
def wait_until(team, index, number, own):
    """Wait until a word is at least `number`; returns it. `own` is the line of the member that waits.

    After a while the wait gives way: the thread that is waited for may need this very processor. Such time is lost.
    """
    turns, began = 0, 0
    value = atomic_load(team, index)
    while value < number:
        pause()
        turns += 1
        if turns == PATIENCE:
            began = clock()
        if turns > PATIENCE:
            give_way()
        value = atomic_load(team, index)
    if turns > PATIENCE:
        atomic_add(team, own + LOST, clock() - began)
        atomic_add(team, own + LONG_WAITS, 1)
    return value


@expanded
def others_of(team):
    """Most members besides the leader."""
    return (team.size - BARRIERS) // WORDS - 1


@kernel
def count_awake(roster, change):
    """Say that one more thread is awake, or one less."""
    atomic_add(roster, AWAKE, change)


@kernel
def wait_for_bell(team, roster, idle_turns, busy_turns):
    """Listen to the bell for so many turns, more if a team is at work; returns whether it has rung."""
    turns = 0
    while turns < idle_turns or (turns < busy_turns and atomic_load(roster, AT_WORK) > 0):
        if atomic_load(team, BELL) == RUNG:
            return True
        pause()
        turns += 1
        if turns > PATIENCE:
            give_way()
    return False


@kernel
def ring_bell(team):
    """Call those who listen, as the leader, and wait a moment for as many as are expected."""
    if others_of(team) > 0:
        atomic_store(team, BELL, RUNG)
        turns, expected = 0, atomic_load(team, EXPECTED)
        while turns < WELCOME and atomic_load(team, JOINED) < expected:
            pause()
            turns += 1


@kernel
def join_team(team):
    """Enter as a member that is not the leader and wait for the start.

    Returns (member, size of the team, first step); member is -1 if it is too late.
    """
    member = atomic_add(team, JOINED, 1) + 1
    if member >= CLOSED or member > others_of(team):
        return -1, 0, 0
    size = wait_until(team, SIZE, 1, BARRIERS + member * WORDS)
    return (member if member < size else -1), size, atomic_load(team, START)


@kernel
def close_team(team, start, last):
    """Close the team as its leader: if somebody has joined, to go on together at step `start`; or at the end.

    Returns the size of the team, 1 while nobody has joined.
    """
    if atomic_load(team, JOINED) == 0 and not last:
        return 1
    size = 1 if last else min(atomic_add(team, JOINED, CLOSED), others_of(team)) + 1
    if last:
        atomic_add(team, JOINED, CLOSED)
    atomic_store(team, BARRIERS + BEGAN, clock())
    atomic_store(team, START, start)
    atomic_store(team, SIZE, size)
    return size


@inlined
def wait_for_team(team, member, size, round_number):
    """Barrier number `round_number` of the members: returns when all have come. Rounds count up from 1."""
    if size > 1:
        own = BARRIERS + member * WORDS
        atomic_store(team, own, round_number)
        for other in range(size):
            wait_until(team, BARRIERS + other * WORDS, round_number, own)
    return round_number + 1


@expanded
def consider_breaking_up(team, leader, size, round_number):
    """Before a barrier: as the leader, break the team up if less time is left to work in than one member needs alone.

    That is 1 / `size` of all time. Members see it after the barrier, and none before, by the number of its round.
    """
    if leader and size > 1 and atomic_load(team, BARRIERS + LONG_WAITS) > atomic_load(team, FORGIVEN):
        passed = clock() - atomic_load(team, BARRIERS + BEGAN)
        if atomic_load(team, BARRIERS + LOST) * size > passed * (size - 1):
            atomic_store(team, BROKEN_UP, round_number)


@expanded
def is_broken_up(team, size, round_number):
    """After that barrier, when the next one has this number: whether the leader goes on alone."""
    return size > 1 and 0 < atomic_load(team, BROKEN_UP) < round_number


@expanded
def step_size(size, by_rows):
    """Members that must wait for one another at each step: none if each has sequences of its own."""
    return 1 if by_rows else size


@expanded
def share(count, member, size):
    """First and end of a member's share of `count` things."""
    return count * member // size, count * (member + 1) // size


@expanded
def member_number(team, leader):
    """Number of a member, where work is divided in parts that the members take one after the other."""
    if leader:
        if others_of(team) > 0:
            atomic_store(team, BELL, RUNG)
        return 0
    return atomic_add(team, JOINED, 1) + 1


@expanded
def enter_team(team, leader, start):
    """Enter the kernel; returns (member, size of the team, first step); member is -1 if it is too late."""
    if leader:
        ring_bell(team)
        return 0, 1, start
    return join_team(team)


@expanded
def take_part(team):
    """Number of the next part that nobody has taken, from 0 on; past the last one there is nothing left to do."""
    return atomic_add(team, TAKEN, 1)


@expanded
def finish_part(team):
    """Count a part as done."""
    atomic_add(team, DONE, 1)


@expanded
def wait_for_parts(team, leader, parts):
    """Return to the leader when all parts are done; who comes too late finds none, and returns at once."""
    if leader:
        wait_until(team, DONE, parts, BARRIERS)
