"""The GRU: over sequences, and step by step."""

from . import common


class Sequence(common.Sequence):
    cell = "gru"
    params = (common.selected("single-stream", "char-rnn", "PTB-medium"), *common.Sequence.params[1:])


class SequenceResetBefore(common.Sequence):
    """With the reset gate before the product: two products a step, one after the other."""

    cell = "gru_reset_before"
    params = (common.selected("char-rnn"), *common.Sequence.params[1:])


class Throughput(common.Throughput):
    cell = "gru"


class LongSequence(common.LongSequence):
    cell = "gru"


class Steps(common.Steps):
    cell = "gru"
