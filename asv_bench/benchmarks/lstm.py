"""The LSTM: over sequences, and step by step."""

from . import common


class Sequence(common.Sequence):
    cell = "lstm"


class Throughput(common.Throughput):
    cell = "lstm"


class LongSequence(common.LongSequence):
    cell = "lstm"


class Steps(common.Steps):
    cell = "lstm"
