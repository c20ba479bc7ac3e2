"""Weights from elsewhere, both ways: PyTorch, Keras, ONNX, Flax.

Functions on arrays need NumPy only, whatever the arrays come from: `from_torch_state`, `from_keras_weights`,
`from_onnx_tensors` and `from_flax_params` give the weights under the names of this package, as layers take them, and
`to_...` go back. `from_torch`, `from_keras`, `from_onnx`, `from_flax` and `from_safetensors` make layers.

The weights of layers and directions are one dict of arrays: `Wx`, `Wh`, `b`, and `bh` of a GRU. In a stack each name
ends in `_l0`, `_l1`, ...; the second direction ends in `_reverse`, as in `Wx_l1_reverse`.
"""

from rnnkernels.convert._flax import from_flax, from_flax_params, to_flax_params
from rnnkernels.convert._form import stack, unstack
from rnnkernels.convert._keras import from_keras, from_keras_weights, to_keras_weights
from rnnkernels.convert._onnx import from_onnx, from_onnx_tensors, to_onnx_tensors
from rnnkernels.convert._torch import from_safetensors, from_torch, from_torch_state, to_torch_state

__all__ = [
    "from_flax",
    "from_flax_params",
    "from_keras",
    "from_keras_weights",
    "from_onnx",
    "from_onnx_tensors",
    "from_safetensors",
    "from_torch",
    "from_torch_state",
    "stack",
    "to_flax_params",
    "to_keras_weights",
    "to_onnx_tensors",
    "to_torch_state",
    "unstack",
]
