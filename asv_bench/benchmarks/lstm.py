"""The LSTM: over sequences, and step by step."""

from . import common


class Sequence(common.Sequence):
    cell = "lstm"


class Throughput(common.Throughput):
    cell = "lstm"


class LongSequence(common.LongSequence):
    cell = "lstm"


class Steps(common.Timed):
    """Steps that feed each other, each a call from Python."""

    param_names = ("workload", "dtype", "implementation")
    params = (tuple(common.STEPS), common.DTYPES, (common.ONE_THREAD, common.NUMPY))

    def setup(self, workload, dtype, implementation):
        N, _, D, H = common.STEPS[workload]
        self.x = common.normal((N, D), dtype)
        self.h, self.c = common.normal((N, H), dtype, 0.5), common.normal((N, H), dtype)
        self.weights = (
            common.normal((D, 4 * H), dtype, D**-0.5),
            common.normal((H, 4 * H), dtype, H**-0.5),
            common.normal((4 * H,), dtype, 0.1),
        )
        module = common.implementation(implementation)
        self.forward = common.function(module, "lstm_step_forward")
        self.inference = common.without_cache(self.forward)
        self.backward = common.function(module, "lstm_step_backward")
        self.train(1)

    def train(self, steps):
        h, c, caches = self.h, self.c, []
        for _ in range(steps):
            h, c, cache = self.forward(self.x, h, c, *self.weights)
            caches.append(cache)
        dh, dc = h, c
        for cache in reversed(caches):
            _, dh, dc, *_ = self.backward(dh, dc, cache)

    def time_inference_of_100_steps(self, *_):
        h, c = self.h, self.c
        for _ in range(common.STEPS_PER_SAMPLE):
            h, c, _ = self.inference(self.x, h, c, *self.weights)

    def time_training_of_100_steps(self, *_):
        self.train(common.STEPS_PER_SAMPLE)
