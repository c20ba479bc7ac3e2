"""Several threads in one kernel: how they find together, share hidden units, and wait for each other.

The *leader*, the thread that was called, offers its kernel when it enters. Threads that listen (`listen`) *join* it:
they call the same machine code with the same arguments, but as another member. The leader looks for them at each chunk
of steps and, once somebody has joined, closes the team: from then on each member computes its share, with a barrier
where one needs what another computes. Nobody waits for a thread that has not taken a place, but for a moment for those
that are awake. So a thread that never comes costs nothing. Where members that meet at each step lose their
processors to other processes so often that the leader would be faster alone, it breaks the team up between two chunks
and goes on. At the end the leader waits until all others have left: they use its arguments, which end with its call.

Where parts of the work do not depend on one another, members take them one after the other instead; the team stays
open until all are taken. Between two barriers a member takes the things of its share one by one, and then those that
others have not come to: processors are seldom equally fast.

A board is an int64 array of lines of WORDS: for the places that are free, for those who have left, for those who are
awake, for the offer, for what the leader publishes, and from BARRIERS on one for the barriers and lost time of each
member. What is used of two lines shares no cache line of 64 bytes. Where OTHERS is 0 nobody can join, and nobody else
needs to see the board.
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

MOST_MEMBERS = 256
"""Members for which the board of a pool has lines."""

PATIENCE = 1000
"""Turns of a waiting loop, each a pause of some 10 to 60 ns, before it gives way."""

WELCOME = PATIENCE
"""Turns for which a leader waits for threads that are awake: they see an offer at once if they have a processor."""

IDLE_TURNS, BUSY_TURNS = PATIENCE + 300, PATIENCE + 30000
"""Turns for which a thread listens before it goes to sleep: while there is no team about as long as it takes to wake
up, 0.1 ms on an AMD EPYC (Zen 4) under Linux, so that listening never costs much more than sleeping would have; and
between the kernel calls of a team some 10 ms, after which there is nothing for it to do there soon."""

FORGIVEN_WAITS = 3
"""Waits for which a leader has to give way before it thinks of breaking the team up."""

FREE, LEFT, AWAKE, OFFER, PUBLISHED, BARRIERS = (line * WORDS for line in range(6))
FUNCTION, ARGUMENTS, OTHERS, AT_WORK, WELCOMED, FORGIVEN = range(OFFER, OFFER + 6)
SIZE, START, BROKEN_UP, TAKEN = range(PUBLISHED, PUBLISHED + 4)
LOST, LONG_WAITS, BEGAN, SHARES = 1, 2, 3, 4  # in the line of a member; SHARES is the first of MOST_SHARES words
MOST_SHARES = 5


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
def atomic_exchange(typingctx, array, index, number):
    """Write a word; returns what it was."""
    signature = types.int64(array, types.intp, types.int64)
    return signature, _atomic(lambda builder, pointer, value: builder.atomic_rmw("xchg", pointer, value, "seq_cst"))


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


MEMBER_CALL = ir.FunctionType(ir.VoidType(), [I64.as_pointer(), I64])
"""Of the function that an offer holds: its arguments are those of the leader, and the number of the member."""


@intrinsic
def offer_call(typingctx, team):
    """Write on the board how to call the kernel in which this stands, as another member.

    The kernel must have an argument `member`, an integer; all others are passed as they came. They live as long as this
    call of the kernel does.
    """

    def codegen(context, builder, sig, args):
        kernel = builder.function
        passed = context.call_conv.get_arguments(kernel)  # without the places of its result and of its exception
        member = next(position for position, argument in enumerate(passed) if argument.name == "arg.member")
        record = ir.LiteralStructType([argument.type for argument in passed])
        arguments = cgutils.alloca_once(builder, record)
        for position, argument in enumerate(passed):
            builder.store(argument, cgutils.gep_inbounds(builder, arguments, 0, position))

        function = ir.Function(builder.module, MEMBER_CALL, f"{kernel.name}.member")
        function.linkage = "internal"
        inside = ir.IRBuilder(function.append_basic_block())
        source = inside.bitcast(function.args[0], record.as_pointer())
        values = [inside.load(cgutils.gep_inbounds(inside, source, 0, position)) for position in range(len(passed))]
        values[member] = function.args[1]
        places = kernel.args[: len(kernel.args) - len(passed)]
        inside.call(kernel, [*(inside.alloca(place.type.pointee) for place in places), *values])
        inside.ret_void()

        board = array_data(context, builder, sig.args[0], args[0])
        for word, pointer in ((FUNCTION, function), (ARGUMENTS, arguments)):
            builder.store(builder.ptrtoint(pointer, I64), builder.gep(board, [I64(word)]))
        return context.get_dummy_value()

    return types.void(team), codegen


@intrinsic
def call_as_member(typingctx, team, member):
    """Make the call that is offered on the board."""

    def codegen(context, builder, sig, args):
        board = array_data(context, builder, sig.args[0], args[0])
        function, arguments = (builder.load(builder.gep(board, [I64(word)])) for word in (FUNCTION, ARGUMENTS))
        arguments = builder.inttoptr(arguments, I64.as_pointer())
        builder.call(builder.inttoptr(function, MEMBER_CALL.as_pointer()), [arguments, args[1]])
        return context.get_dummy_value()

    return types.void(team, types.int64), codegen


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


@kernel
def listen(team, idle_turns, busy_turns):
    """Take part in the calls of teams, until there has been no place for so many turns; more if a team is at work.

    Or until more threads listen than the team has places for.
    """
    atomic_add(team, AWAKE, 1)
    turns = 0
    while turns < idle_turns or (turns < busy_turns and atomic_load(team, AT_WORK) > 0):
        member = join_team(team)
        if member > 0:
            call_as_member(team, member)
            atomic_add(team, LEFT, 1)
            turns = 0
        else:
            if atomic_load(team, AWAKE) > atomic_load(team, OTHERS):
                if atomic_add(team, AWAKE, -1) > atomic_load(team, OTHERS):
                    return
                atomic_add(team, AWAKE, 1)  # others have gone first
            pause()
            turns += 1
            if turns > PATIENCE:
                give_way()
    atomic_add(team, AWAKE, -1)


@kernel
def join_team(team):
    """Take a place if one is free; returns the number of the member, or 0."""
    if atomic_load(team, FREE) > 0:
        free = atomic_add(team, FREE, -1)
        if free > 0:
            return team[OTHERS] - free + 1
    return 0


@kernel
def open_team(team):
    """Let others join, as the leader, and wait a moment for those who are awake."""
    others = team[OTHERS]
    if others > 0:
        team[LEFT] = 0
        atomic_store(team, FREE, others)
        turns = 0
        while turns < team[WELCOMED] and others - atomic_load(team, FREE) < min(atomic_load(team, AWAKE), others):
            pause()
            turns += 1


@expanded
def turn_away(team):
    """Let nobody join any more; returns how many have."""
    return team[OTHERS] - max(atomic_exchange(team, FREE, 0), 0)


@kernel
def close_team(team, start):
    """Close the team, as its leader, if somebody has joined: to go on together at step `start`.

    Returns the size of the team, 1 while nobody has joined.
    """
    if atomic_load(team, FREE) == team[OTHERS]:
        return 1
    size = turn_away(team) + 1
    team[START] = start
    team[BARRIERS + BEGAN] = clock()
    atomic_store(team, SIZE, size)
    return size


@kernel
def leave_team(team, member):
    """At the end of a kernel: as the leader turn away who comes too late, wait for the others, and wipe the board."""
    if member > 0:
        return
    if team[OTHERS] > 0:
        joined = team[SIZE] - 1
        if joined < 0:  # never closed
            joined = turn_away(team)
            atomic_store(team, SIZE, 1)
        wait_until(team, LEFT, joined, BARRIERS)
    team[SIZE] = team[BROKEN_UP] = team[TAKEN] = 0
    for line in range(BARRIERS, BARRIERS + (team[OTHERS] + 1) * WORDS, WORDS):
        team[line] = team[line + LOST] = team[line + LONG_WAITS] = 0


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
def consider_breaking_up(team, member, size, round_number):
    """Before a barrier: as the leader, break the team up if less time is left to work in than one member needs alone.

    That is 1 / `size` of all time. Members see it after the barrier, and none before, by the number of its round.
    """
    if member == 0 and size > 1 and atomic_load(team, BARRIERS + LONG_WAITS) > team[FORGIVEN]:
        passed = clock() - team[BARRIERS + BEGAN]
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
    if size == 1:
        return 0, count
    return count * member // size, count * (member + 1) // size


@expanded
def enter_team(team, member, start, at_once):
    """Enter a kernel whose members share the work of each chunk; returns (size of the team, first step).

    A member whose number is not below the size has come too late. The leader is number 0. If `at_once`, members begin
    whenever they come, to take parts of the work in turn, and know of no size but 1.
    """
    if member == 0:
        offer_call(team)
        open_team(team)
        return 1, start
    if at_once:
        return 1, start
    return wait_until(team, SIZE, 1, BARRIERS + member * WORDS), team[START]


@expanded
def open_to_members(team, member):
    """Enter a kernel whose members take parts of the work in turn, whenever they come."""
    if member == 0:
        offer_call(team)
        open_team(team)


@expanded
def take_part(team):
    """Number of the next part that nobody has taken, from 0 on; past the last one there is nothing left to do."""
    return atomic_add(team, TAKEN, 1)


@expanded
def offer_shares(team, member, size):
    """Before a barrier after which members take things of their shares: they have taken none so far."""
    if size > 1:
        for k in range(MOST_SHARES):
            team[BARRIERS + member * WORDS + SHARES + k] = 0


@kernel
def take_from_share(team, number, owner, taken, size, count):
    """Take the next of `count` things that members share: of the share of `owner`, or of the next member's.

    Members begin with their own shares; one that has ended it, since its processor is faster, helps the others.
    `number` says which of the shares between two barriers, `taken` how many this member has taken: alone it needs no
    board. Returns the thing, -1 if there is none left, whose share it is of, and how many are taken by now.
    """
    if size == 1:
        return (taken if taken < count else -1), owner, taken + 1
    for _ in range(size):
        first, end = share(count, owner, size)
        thing = first + atomic_add(team, BARRIERS + owner * WORDS + SHARES + number, 1)
        if thing < end:
            return thing, owner, taken + 1
        owner = owner + 1 if owner + 1 < size else 0
    return -1, owner, taken
