"""The vanilla RNN: over sequences, and step by step."""

from . import common


class Sequence(common.Sequence):
    cell = "rnn"
    params = (common.selected("single-stream", "char-rnn", "PTB-medium"), *common.Sequence.params[1:])


class Throughput(common.Throughput):
    cell = "rnn"


class LongSequence(common.LongSequence):
    cell = "rnn"


class Steps(common.Timed):
    """Steps that feed each other, each a call from Python."""

    param_names = ("workload", "dtype", "implementation")
    params = (tuple(common.STEPS), common.DTYPES, (common.ONE_THREAD, common.NUMPY))

    def setup(self, workload, dtype, implementation):
        N, _, D, H = common.STEPS[workload]
        self.x = common.normal((N, D), dtype)
        self.h = common.normal((N, H), dtype, 0.5)
        self.weights = (
            common.normal((D, H), dtype, D**-0.5),
            common.normal((H, H), dtype, H**-0.5),
            common.normal((H,), dtype, 0.1),
        )
        module = common.implementation(implementation)
        self.forward = common.function(module, "rnn_step_forward")
        self.inference = common.without_cache(self.forward)
        self.backward = common.function(module, "rnn_step_backward")
        self.train(1)

    def train(self, steps):
        h, caches = self.h, []
        for _ in range(steps):
            h, cache = self.forward(self.x, h, *self.weights)
            caches.append(cache)
        dh = h
        for cache in reversed(caches):
            _, dh, *_ = self.backward(dh, cache)

    def time_inference_of_100_steps(self, *_):
        h = self.h
        for _ in range(common.STEPS_PER_SAMPLE):
            h, _ = self.inference(self.x, h, *self.weights)

    def time_training_of_100_steps(self, *_):
        self.train(common.STEPS_PER_SAMPLE)
