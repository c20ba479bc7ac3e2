"""The vanilla RNN: over sequences, and step by step."""

from . import common


class Sequence(common.Sequence):
    cell = "rnn"
    params = (common.selected("single-stream", "char-rnn", "PTB-medium"), *common.Sequence.params[1:])


class Throughput(common.Throughput):
    cell = "rnn"


class LongSequence(common.LongSequence):
    cell = "rnn"


class Steps(common.Steps):
    cell = "rnn"
