"""The LSTM: over sequences, and step by step."""

from . import common


class Sequence(common.Sequence):
    cell = "lstm"


class SequenceProjected(common.Sequence):
    """With a projection to half as many columns."""

    cell = "lstm_projected"
    params = (common.selected("char-rnn", "PTB-medium"), *common.Sequence.params[1:])


class Throughput(common.Throughput):
    cell = "lstm"


class LongSequence(common.LongSequence):
    cell = "lstm"


class Steps(common.Steps):
    cell = "lstm"
