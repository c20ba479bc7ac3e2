"""The GRU: over sequences, and step by step."""

from . import common


class Sequence(common.Sequence):
    cell = "gru"
    params = (common.selected("single-stream", "char-rnn", "PTB-medium"), *common.Sequence.params[1:])


class Throughput(common.Throughput):
    cell = "gru"


class LongSequence(common.LongSequence):
    cell = "gru"


class Steps(common.Steps):
    cell = "gru"
