"""Each private interface of Numba that the package uses, so that a new version says in a sentence what it has changed.

`numba.njit`, `numba.extending`, `numba.types` and `numba.config` are documented and not listed, except for options of
`njit` that are not. The functions compiled here are trivial; whether kernels are right is for other tests.
"""

import ctypes
import inspect
import reprlib
import threading

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numba import config, njit, types
from numba.core import caching, ccallback, cgutils, codegen, compiler_lock, dispatcher, event, serialize
from numba.extending import intrinsic
from numba.np import arrayobj

from rnnkernels.kernels.jit import COMPILER_IS_OFF, OPTIONS

pytestmark = pytest.mark.skipif(COMPILER_IS_OFF, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")

INTEGERS = (types.int64, types.int64)
FLOATS = types.Array(types.float64, 1, "C")


def add(a, b):
    return a + b


def has(owner, *names):
    """Say which attributes are no longer there."""
    missing = [name for name in names if not hasattr(owner, name)]
    assert not missing, f"{owner!r} has no {', '.join(missing)} any more"


def takes(function, *names):
    """Say how the arguments of a function have changed."""
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    assert parameters[: len(names)] == list(names), f"{function.__qualname__} takes {parameters}, no longer {names}"


@pytest.fixture(scope="module")
def added():
    """A dispatcher with one specialisation."""
    function = njit(**OPTIONS)(add)
    function.compile(INTEGERS)
    return function


@pytest.fixture
def cache_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


# Specialisations and their machine code: cell, inventory, jit


def test_compile__returns_the_entry_point(added):
    overload = added.overloads.get(INTEGERS)
    assert overload is not None, f"Dispatcher.overloads has keys {list(added.overloads)}, no longer tuples of types"
    has(overload, "entry_point")
    assert overload.entry_point(2, 3) == 5, "entry_point of a compile result cannot be called from Python any more"
    assert added.compile(INTEGERS) is overload.entry_point, (
        "Dispatcher.compile does not return the entry point any more"
    )


def test_entry_point__does_not_look_at_its_arguments():
    function = njit(**OPTIONS)(lambda a: a[0])
    code, array = function.compile((FLOATS,)), np.array([2.5])
    array.setflags(write=False)
    assert code(array) == 2.5, "entry_point refuses a read-only array where a writable one was compiled for"
    assert len(function.signatures) == 1, "entry_point compiles for other types of arguments"


@pytest.mark.parametrize("option", ["_nrt", "forceinline", "no_cpython_wrapper", "no_cfunc_wrapper"])
def test_njit__knows_the_option(option):
    function = njit(**{**OPTIONS, option: option != "_nrt"})(add)
    has(function, "targetoptions")
    assert option in function.targetoptions, f"Dispatcher.targetoptions has no {option!r} any more"
    try:
        function.compile(INTEGERS)
    except Exception as error:
        pytest.fail(f"njit does not take the option {option!r} any more: {error}")


def test_nrt__can_be_left_out():
    function = njit(**OPTIONS)(lambda a: a)
    function.compile((FLOATS,))
    found = [name for name in ("NRT_incref", "NRT_decref") if name in function.inspect_llvm((FLOATS,))]
    assert not found, f"the option _nrt=False does not keep {found} out any more"


def test_dispatcher__counts(added):
    assert isinstance(added, dispatcher.Dispatcher), "njit does not make a numba.core.dispatcher.Dispatcher any more"
    has(added, "overloads", "signatures", "py_func", "stats", "targetoptions", "_cache")
    has(added.stats, "cache_path", "cache_hits", "cache_misses")
    for name in ("cache_hits", "cache_misses"):
        assert hasattr(getattr(added.stats, name), "values"), f"stats.{name} has no numbers by signature any more"


def test_get_call_template__is_asked_for_calls_from_other_functions():
    inner, asked = njit(**OPTIONS)(add), []
    takes(inner.get_call_template, "args", "kws")
    template_of = inner.get_call_template

    def get_call_template(args, kws):
        asked.append((args, kws))
        return template_of([types.unliteral(a) for a in args], {name: types.unliteral(a) for name, a in kws.items()})

    inner.get_call_template = get_call_template
    outer = njit(**OPTIONS)(lambda a: inner(a, b=7))
    assert outer(1) == 8
    assert asked, "Numba does not ask Dispatcher.get_call_template of an instance for the types of a call any more"
    assert len(inner.signatures) == 1, "literals reach a function although get_call_template has removed them"


# The disk cache: jit


def test_cache_impl__reduces_to_machine_code_in_a_known_place(added):
    impl = caching.CompileResultCacheImpl
    takes(impl.rebuild, "target_context", "payload")
    payload = impl.reduce(None, added.overloads[INTEGERS])
    try:
        _, kind, (code, *_) = payload[0]
    except (TypeError, ValueError):
        found = reprlib.repr(payload[0])
        pytest.fail(f"the payload of a cached function begins with {found}, no longer with (name, kind, (code, ...))")
    assert kind == "object", f"cached functions are of kind {kind!r}, no longer object code"
    assert isinstance(code, bytes), f"the object code of a cached function is {type(code)}, no longer bytes"
    assert isinstance(serialize.dumps(payload), bytes), "numba.core.serialize.dumps does not give bytes any more"


def test_function_cache__loads_and_saves_through_its_file(cache_folder):
    class Files:
        kept, asked = None, 0

        def load(self, key):
            self.asked += 1
            return self.kept

        def save(self, key, data):
            self.kept = data

    rebuilt = []

    class Impl(caching.CompileResultCacheImpl):
        def rebuild(self, target_context, payload):
            rebuilt.append(payload)
            return super().rebuild(target_context, payload)

    class Cache(caching.FunctionCache):
        _impl_class = Impl

    files = Files()

    def function():
        fresh = njit(**OPTIONS)(add)
        has(fresh, "_cache")
        fresh._cache = Cache(add)
        has(fresh._cache, "cache_path", "_cache_file", "_impl")
        has(fresh._cache._impl, "filename_base")
        fresh._cache._cache_file = files
        return fresh

    takes(Cache.load_overload, "sig", "target_context")
    takes(Cache.save_overload, "sig", "data")
    first, second = function(), function()
    assert first(2, 3) == 5
    assert files.asked, "a Dispatcher does not load from _cache._cache_file any more"
    assert files.kept is not None, "a Dispatcher does not save to _cache._cache_file any more"
    assert second(2, 3) == 5
    assert len(rebuilt) == 1, "FunctionCache does not rebuild by its _impl_class any more"
    hits, misses = second.stats.cache_hits, second.stats.cache_misses
    assert (sum(hits.values()), sum(misses.values())) == (1, 0), f"stats count {hits} hits and {misses} misses"
    assert str(second.stats.cache_path).startswith(str(cache_folder)), "stats.cache_path is not the folder any more"


def test_function_cache__says_so_where_no_folder_can_be_written(monkeypatch):
    has(caching, "_CacheLocator")
    has(caching._CacheLocator, "ensure_cache_path")  # which test_jit replaces
    has(caching.CacheImpl, "_locator_classes")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError):  # which `jit.kernel` expects
        caching.FunctionCache(add)


# What scripts/_fingerprints.py listens to


def test_code_library__is_loaded_and_finalized_by_known_methods(added):
    library = codegen.JITCodeLibrary
    has(library, "_unserialize", "finalize")
    takes(library._unserialize, "codegen", "state")
    takes(dispatcher.Dispatcher.__init__, "py_func")
    _, _, (_, bitcode) = caching.CompileResultCacheImpl.reduce(None, added.overloads[INTEGERS])[0]
    assert "define" in str(llvm.parse_bitcode(bitcode)), "files of machine code do not hold the LLVM code any more"


# Locks and events: jit, inventory


def test_compiler_lock__can_be_waited_for():
    has(compiler_lock.global_compiler_lock, "_lock")
    lock = compiler_lock.global_compiler_lock._lock
    assert isinstance(lock, type(threading.RLock())), f"the lock of the compiler is {lock!r}, no longer an RLock"
    states = []

    class Asks(event.Listener):
        def on_start(self, event):
            other = threading.Thread(target=lambda: states.append(lock.acquire(timeout=0.01)))
            other.start()
            other.join()

        def on_end(self, event):
            pass

    with event.install_listener("numba:compile", Asks()):
        njit(**OPTIONS)(add).compile(INTEGERS)
    assert states == [False], "global_compiler_lock is not held during a compilation any more"


def test_events__tell_of_each_compilation():
    heard = []

    class Hears(event.Listener):
        def on_start(self, event):
            heard.append(("start", event.data))

        def on_end(self, event):
            heard.append(("end", event.data))

    takes(event.register, "kind", "listener")
    listener, function = Hears(), njit(**OPTIONS)(add)
    event.register("numba:compile", listener)
    try:
        function.compile(INTEGERS)
    finally:
        event.unregister("numba:compile", listener)
    assert [what for what, _ in heard] == ["start", "end"], f'"numba:compile" is told as {heard}'
    assert all(data["dispatcher"] is function for _, data in heard), f'data of "numba:compile" is {heard[0][1]}'


# Shared routines: linking


def test_cfunc__compiles_with_options_and_has_an_address(cache_folder):
    takes(ccallback.CFunc, "pyfunc", "sig", "locals", "options")
    signature = ((types.CPointer(types.float64), types.intp), types.void)
    options = {name: value for name, value in OPTIONS.items() if name != "nogil"}

    def double(values, count):
        for i in range(count):
            values[i] *= 2.0

    compiled = ccallback.CFunc(double, signature, locals={}, options=options)
    has(compiled, "_cache", "compile", "address")
    assert compiled.address is None, "CFunc is compiled before it is asked to"
    compiled._cache = caching.FunctionCache(double)
    compiled.compile()
    assert isinstance(compiled.address, int), f"CFunc.address is {compiled.address!r}, no longer a number"
    assert list(cache_folder.rglob("*.nbc")), "CFunc does not save to its _cache any more"
    values = (ctypes.c_double * 2)(1.5, 2.5)
    ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_double), ctypes.c_ssize_t)(compiled.address)(values, 2)
    assert list(values) == [3.0, 5.0], "the function at CFunc.address does not follow the calling convention of C"


def test_symbols__are_found_by_name_when_code_is_loaded():
    name = "rnnkernels.test_numba_interfaces.seven"
    callback = ctypes.CFUNCTYPE(ctypes.c_int64)(lambda: 7)
    llvm.add_symbol(name, ctypes.cast(callback, ctypes.c_void_p).value)
    takes(cgutils.get_or_insert_function, "module", "fnty", "name")

    @intrinsic
    def seven(typingctx):
        def codegen(context, builder, sig, args):
            declared = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(64), []), name)
            return builder.call(declared, [])

        return types.int64(), codegen

    # It holds the GIL, since what it calls is Python.
    assert njit(lambda: seven())() == 7, "machine code does not find symbols that llvmlite was told of any more"


# Arrays, calls and the processor inside of intrinsics: simd, team, embedding


def test_arrays__have_their_data_where_intrinsics_look_for_it():
    @intrinsic
    def copy_bytes(typingctx, target, source, count):
        def codegen(context, builder, sig, args):
            pointers = [
                arrayobj.make_array(t)(context, builder, a).data for t, a in zip(sig.args[:2], args, strict=False)
            ]
            cgutils.memcpy(builder, *pointers, args[2])
            return context.get_dummy_value()

        return types.void(target, source, types.intp), codegen

    takes(cgutils.memcpy, "builder", "dst", "src", "count")
    target, source = np.zeros(3), np.array([1.0, 2.0, 3.0])
    njit(**OPTIONS)(lambda target, source: copy_bytes(target, source, 2))(target, source)
    assert target.tolist() == [1.0, 2.0, 0.0], (
        "make_array(...).data or cgutils.memcpy, which counts elements, has changed"
    )


def test_kernels__have_named_arguments_behind_their_results():
    seen = []

    @intrinsic
    def look(typingctx):
        def codegen(context, builder, sig, args):
            function = builder.function
            passed = context.call_conv.get_arguments(function)
            places = function.args[: len(function.args) - len(passed)]
            seen.append(([a.name for a in passed], [isinstance(p.type, ir.PointerType) for p in places]))
            seen.append(all(a is b for a, b in zip(passed, function.args[len(places) :], strict=True)))
            slot = cgutils.alloca_once(builder, ir.LiteralStructType([ir.IntType(64)]))
            builder.store(ir.IntType(64)(5), cgutils.gep_inbounds(builder, slot, 0, 0))
            return builder.load(cgutils.gep_inbounds(builder, slot, 0, 0))

        return types.int64(), codegen

    def function(team, member):
        return look()

    assert njit(**OPTIONS)(function)(3, 4) == 5, "cgutils.alloca_once or gep_inbounds has changed"
    (names, are_pointers), are_last = seen
    assert names == ["arg.team", "arg.member"], f"arguments of machine code are named {names}"
    assert are_last, "the arguments of machine code are not the last ones of its function any more"
    assert are_pointers == [True, True], "a function has other places than those of its result and its exception"


def test_processor__has_features_that_are_listed():
    features = codegen.get_host_cpu_features()
    assert isinstance(features, str), f"get_host_cpu_features gives {type(features)}, no longer text"
    assert all(f[0] in "+-" for f in features.split(",") if f), f"get_host_cpu_features gives {features}"
    assert llvm.get_process_triple(), "llvmlite does not know the triple of the process any more"
