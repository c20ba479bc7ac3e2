"""Routines that kernels call instead of containing them: compiled once per dtype, and found by name.

Numba optimises and translates whatever a compiled function calls along with it, again for each caller, and the products
of matrices are most of the code of every layer. A *shared* routine is compiled by itself as a C function. Kernels
declare it by a name that LLVM looks up when their machine code is loaded; so it has to be there by then.
"""

import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from rnnkernels.kernels.jit import CACHE_IS_ON, OPTIONS, PackageCache, before_loading
from rnnkernels.kernels.simd import I64, array_data

ELEMENTS = types.float32, types.float64

routines: list["Routine"] = []


class Routine:
    """A function of arrays of one float dtype, of arrays of indices and of integers, without a result.

    Arrays count by their elements.
    """

    def __init__(self, function: Callable[..., Any], arrays: tuple[str, ...], indices: tuple[str, ...]) -> None:
        self.function = function
        self.names = function.__code__.co_varnames[: function.__code__.co_argcount]
        self.arrays, self.indices = arrays, indices
        self.compiled: dict[Any, CFunc] = {}
        routines.append(self)

    def symbol(self, element: Any) -> str:
        """The name by which kernels find the machine code."""
        return f"rnnkernels.{self.function.__name__}.{element}"

    def provide(self, element: Any) -> None:
        """Have the machine code for an element type."""
        if element in self.compiled:
            return
        pointers = dict.fromkeys(self.arrays, element) | dict.fromkeys(self.indices, types.int64)
        arguments = [types.CPointer(pointers[name]) if name in pointers else types.intp for name in self.names]
        options = {name: value for name, value in OPTIONS.items() if name != "nogil"}
        compiled: Any = CFunc(self.function, (tuple(arguments), types.void), locals={}, options=options)
        if CACHE_IS_ON:
            compiled._cache = PackageCache(self.function)
        compiled.compile()
        llvm.add_symbol(self.symbol(element), compiled.address)
        self.compiled[element] = compiled


def provide_called(code: bytes) -> None:
    """Have the machine code of all routines that some other machine code calls."""
    for routine in routines:
        for element in ELEMENTS:
            if routine.symbol(element).encode() in code:
                routine.provide(element)


before_loading.append(provide_called)


def shared(arrays: str, indices: str = "") -> Callable[[Callable[..., Any]], Any]:
    """Make a function a shared routine; these of its arguments are arrays, of floats or of int64, others integers."""

    def make(function: Callable[..., Any]) -> Any:
        routine = Routine(function, tuple(arrays.split()), tuple(indices.split()))
        is_array = [name in (*routine.arrays, *routine.indices) for name in routine.names]
        a_float = routine.names.index(routine.arrays[0])

        def call(typingctx: Any, *arguments: Any) -> Any:
            element = arguments[a_float].dtype
            routine.provide(element)
            given = [types.unliteral(argument) for argument in arguments]
            wanted = [
                a if is_one or a == types.boolean else types.intp for a, is_one in zip(given, is_array, strict=True)
            ]

            def codegen(context, builder, sig, values):
                passed = [
                    array_data(context, builder, kind, value)
                    if is_one
                    else builder.zext(value, I64)
                    if value.type != I64
                    else value
                    for kind, value, is_one in zip(sig.args, values, is_array, strict=True)
                ]
                function_type = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
                builder.call(
                    cgutils.get_or_insert_function(builder.module, function_type, routine.symbol(element)), passed
                )
                return context.get_dummy_value()

            return types.void(*wanted), codegen

        parameters = list(inspect.signature(function).parameters.values())
        context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        named: dict[str, Any] = {
            "__signature__": inspect.Signature([context, *parameters]),
            "__name__": function.__name__,
            "__doc__": function.__doc__,
        }
        for name, value in named.items():
            setattr(call, name, value)
        return intrinsic(call)

    return make
