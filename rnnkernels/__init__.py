"""JIT-compiled RNN, LSTM and GRU kernels for the CPU: NumPy arrays in, NumPy arrays out.

The functions compute layers of recurrent networks, forward and backward, in float32 or float64. Arrays are
batch-major; sizes are N sequences, T steps, D inputs, H hidden units, V words and M outputs. The gate blocks of an LSTM
lie along the last axis of `Wx`, `Wh` and `b` in the order i, f, o, g, those of a GRU in the order r, z, n.
"""

from rnnkernels import convert, nopython, onnx, profiling, reference, roofline
from rnnkernels._compile import compile_all
from rnnkernels._explain import Explanation, explain
from rnnkernels._results import GRUState, LSTMState, RNNState
from rnnkernels._threads import get_num_threads, set_num_threads
from rnnkernels.activations import sigmoid
from rnnkernels.affine import TemporalAffineCache, temporal_affine_backward, temporal_affine_forward
from rnnkernels.embedding import WordEmbeddingCache, word_embedding_backward, word_embedding_forward
from rnnkernels.gradients import clip_gradients
from rnnkernels.gru import GRUCache, GRUResetBeforeCache, gru_backward, gru_forward, gru_step_backward, gru_step_forward
from rnnkernels.layers import GRU, LSTM, RNN
from rnnkernels.loss import temporal_affine_softmax_loss, temporal_softmax_loss
from rnnkernels.lstm import (
    LSTMCache,
    LSTMCoupledCache,
    LSTMCoupledProjectedCache,
    LSTMPeepholeCache,
    LSTMPeepholeProjectedCache,
    LSTMProjectedCache,
    lstm_backward,
    lstm_forward,
    lstm_step_backward,
    lstm_step_forward,
)
from rnnkernels.rnn import RNNCache, RNNReluCache, rnn_backward, rnn_forward, rnn_step_backward, rnn_step_forward
from rnnkernels.stacks import StackCache, StackStream
from rnnkernels.streaming import GRUStream, LSTMStream, RNNStream
from rnnkernels.windows import BPTTWindow, BPTTWindows

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BPTTWindow",
    "BPTTWindows",
    "Explanation",
    "GRUCache",
    "GRUResetBeforeCache",
    "GRUState",
    "GRUStream",
    "LSTMCache",
    "LSTMCoupledCache",
    "LSTMCoupledProjectedCache",
    "LSTMPeepholeCache",
    "LSTMPeepholeProjectedCache",
    "LSTMProjectedCache",
    "LSTMState",
    "LSTMStream",
    "RNNCache",
    "RNNReluCache",
    "RNNState",
    "RNNStream",
    "StackCache",
    "StackStream",
    "TemporalAffineCache",
    "WordEmbeddingCache",
    "clip_gradients",
    "compile_all",
    "convert",
    "explain",
    "get_num_threads",
    "gru_backward",
    "gru_forward",
    "gru_step_backward",
    "gru_step_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_step_backward",
    "lstm_step_forward",
    "nopython",
    "onnx",
    "profiling",
    "reference",
    "rnn_backward",
    "rnn_forward",
    "rnn_step_backward",
    "rnn_step_forward",
    "roofline",
    "set_num_threads",
    "sigmoid",
    "temporal_affine_backward",
    "temporal_affine_forward",
    "temporal_affine_softmax_loss",
    "temporal_softmax_loss",
    "word_embedding_backward",
    "word_embedding_forward",
]
