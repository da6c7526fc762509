"""The few classes and functions of pickles that are built for real, each by code of ours that checks its arguments."""

import datetime
import re
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import torch

from hmcompress.checkpoint.calls import check_key, traced_module
from hmcompress.checkpoint.composed import quantized, sparse
from hmcompress.checkpoint.lazy import CARRIED_DTYPES, LazyTensor, TypedStorage, checked_shape, view_of
from hmcompress.checkpoint.limits import MAX_NAME
from hmcompress.checkpoint.numpy_values import ArrayInPickle, DtypeInPickle, array_of, old_data, scalar_of
from hmcompress.checkpoint.standins import Constructor, Converted, Global, LeftBehind, NumpyArray, StandIn
from hmcompress.element_types import dtype_name
from hmcompress.errors import SourceError

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64,
    "QInt8Storage": torch.qint8, "QUInt8Storage": torch.quint8, "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2, "QUInt2x4Storage": torch.quint2x4,
    "UntypedStorage": torch.uint8, "_UntypedStorage": torch.uint8,
    # TorchScript has a name for each element type:
    "UInt16Storage": torch.uint16, "UInt32Storage": torch.uint32, "UInt64Storage": torch.uint64,
    "ComplexHalfStorage": torch.complex32,
    "Float8_e4m3fnStorage": torch.float8_e4m3fn, "Float8_e4m3fnuzStorage": torch.float8_e4m3fnuz,
    "Float8_e5m2Storage": torch.float8_e5m2, "Float8_e5m2fnuzStorage": torch.float8_e5m2fnuz,
    "Float8_e8m0fnuStorage": torch.float8_e8m0fnu,
}  # fmt: skip
_DTYPES = {name: value for name in dir(torch) if isinstance(value := getattr(torch, name), torch.dtype)}
_BUILTIN_MODULES = ("builtins", "__builtin__")
_OF_JOBLIB = ("joblib.numpy_pickle", "NumpyArrayWrapper")


def find_global(module: str, name: str) -> Any:
    """What a pickle's global means here: a constructor, a dtype, a storage type, or a name without meaning.

    Raises SourceError for one that says what else the file is.
    """
    if module == "torch" and name in _DTYPES:
        return _DTYPES[name]
    if (module, name) == _OF_JOBLIB:  # an array's bytes follow in the midst of the pickle
        raise SourceError("is a file of joblib; open it with joblib.load and save what it holds with torch.save")
    if module.startswith("torch") and name in STORAGE_DTYPES:
        return Constructor(f"{module}.{name}", lambda *_: LeftBehind("a bare storage"))
    if module in _BUILTIN_MODULES:
        module = "builtins"
    if module.startswith("numpy.core."):
        module = "numpy._core." + module.removeprefix("numpy.core.")
    if module == "torch.tensor":
        module = "torch._tensor"
    build = _TABLE.get(f"{module}.{name}")
    return Global(module, name) if build is None else Constructor(f"{module}.{name}", build)


def _storage_dtype(storage_type: object) -> torch.dtype:
    name = str(storage_type).rpartition(".")[2] if isinstance(storage_type, (Constructor, Global)) else ""
    if name not in STORAGE_DTYPES:
        raise SourceError(f"holds a storage of unknown type '{name[:60]}'")
    return STORAGE_DTYPES[name]


def storage_id(key: Any) -> tuple[torch.dtype, str, int]:
    """Dtype, key and bytes of the storage of a persistent id ("storage", type, key, location, number of elements).

    Raises SourceError.
    """
    if not isinstance(key, tuple) or len(key) < 5 or key[0] not in ("storage", b"storage"):
        raise SourceError("damaged: its pickle refers to something that is no storage")
    _, kind, name, _, count = key[:5]
    dtype = _storage_dtype(kind)
    if not isinstance(name, (str, int)) or type(count) is not int or count < 0:
        raise SourceError("damaged: a storage without key or size")
    return dtype, str(name)[:200], count * dtype.itemsize


# torch ---------------------------------------------------------------------------------------------------------------


def _tensor(storage: object, offset: object, size: object, stride: object, dtype: torch.dtype, metadata: object) -> Any:
    if not isinstance(storage, TypedStorage):
        raise SourceError("damaged: a tensor without a storage")
    if dtype not in CARRIED_DTYPES:
        return LeftBehind(f"a tensor of type {dtype_name(dtype)}")
    signs = metadata if isinstance(metadata, dict) else {}
    conjugate, negative = signs.get("conj") is True, signs.get("neg") is True
    return view_of(storage, dtype, offset, size, stride, conjugate=conjugate, negative=negative)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    return _tensor(storage, offset, size, stride, getattr(storage, "dtype", torch.uint8), (rest + (None,) * 3)[2])


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any) -> Any:
    if not isinstance(dtype, torch.dtype):
        raise SourceError("damaged: a tensor without a type")
    return _tensor(storage, offset, size, stride, dtype, rest[0] if rest else None)


def _first(data: Any = None, *_: Any) -> Any:
    """Wrappers around a tensor or a list: the thing inside."""
    return data


def _parameter_with_state(data: Any = None, grad: Any = None, hooks: Any = None, state: Any = None, *_: Any) -> Any:
    """A parameter that somebody put attributes on."""
    told = bool(state) and isinstance(data, LazyTensor)
    return Converted(data, "attributes of a parameter; its values are kept") if told else data


def _from_numpy(data: Any = None, *_: Any) -> Any:
    content = data.content if isinstance(data, ArrayInPickle) else data
    return content.tensor if isinstance(content, NumpyArray) else content


def _from_type(function: Any, kind: Any = None, arguments: Any = (), state: Any = None, *_: Any) -> Any:
    """A tensor with attributes or of a subclass: the tensor itself where torch built it."""
    if isinstance(function, Constructor) and function.name.startswith("torch._utils.") and isinstance(arguments, tuple):
        tensor = function.build(*arguments)
        if isinstance(tensor, LeftBehind):
            return _parts(kind, state)
        plain = not state and str(kind) in ("torch.Tensor", "torch.nn.parameter.Parameter")
        return tensor if plain else Converted(tensor, f"attributes of a tensor of class {kind}; its values are kept")
    return StandIn(Global("torch._tensor", "_rebuild_from_type_v2"), (function, kind, arguments))


def _parts(kind: Any, state: Any) -> Any:
    """A tensor whose values lie in parts that only its class can join (DTensor, torchao): the parts."""
    made = StandIn(kind, ())
    made.states.append(state)
    told, advice = f"a tensor of class {kind}", "save its full_tensor() or dequantize()"
    if attributes := made.attributes():
        return Converted(attributes, f"{told}, kept as a dict of its parts; {advice} for one tensor")
    return LeftBehind(f"{told} without plain values; {advice}")


def _layout(text: Any) -> Any:
    name = text.removeprefix("torch.") if isinstance(text, str) else "unknown"
    return Converted(name, "a torch.layout, kept as text")


def _device(*arguments: Any) -> torch.device:
    text = ":".join(str(a) for a in arguments if isinstance(a, (str, int)))
    if not re.fullmatch(r"[a-z]{1,16}(:\d{1,3})?", text):
        raise SourceError("damaged: a torch.device without a name")
    return torch.device(text)


# Python and numpy ----------------------------------------------------------------------------------------------------


def _plain_dict(pairs: Any = ()) -> dict:
    return {check_key(key): value for key, value in _pairs(pairs)}


def _pairs(pairs: Any) -> list[tuple[Any, Any]]:
    items = list(pairs.items()) if isinstance(pairs, dict) else pairs
    if not isinstance(items, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in items):
        raise SourceError("damaged: a dict that is not made of pairs")
    return [(key, value) for key, value in items]


def _items(values: Any = ()) -> list:
    if not isinstance(values, (list, tuple, set, frozenset, deque)):
        raise SourceError("damaged: a collection that is not made of a list")
    return list(values)


def _set(values: Any = ()) -> set:
    return {check_key(item) for item in _items(values)}


def _bytes(data: Any = b"", encoding: Any = None) -> bytes:
    if isinstance(data, str) and encoding in ("latin1", "latin-1", "utf-8", "ascii"):
        return data.encode(encoding)
    if not isinstance(data, (bytes, bytearray)):
        raise SourceError("damaged: bytes that are not made of bytes")
    return bytes(data)


def _number_slice(*arguments: Any) -> slice:
    if not all(a is None or isinstance(a, int) for a in arguments):
        raise SourceError("damaged: a slice that is not made of numbers")
    return slice(*arguments)


def _complex(real: Any = 0.0, imag: Any = 0.0) -> complex:
    if not all(isinstance(part, (int, float)) for part in (real, imag)):
        raise SourceError("damaged: a complex number that is not made of numbers")
    return complex(real, imag)


def _attribute(owner: Any, name: Any = "", *_: Any) -> Any:
    """getattr in a pickle only names a nested class, a method or an enum's member."""
    if isinstance(owner, (Global, Constructor)) and isinstance(name, str) and len(str(owner)) <= MAX_NAME:
        return Global(str(owner), name)
    return LeftBehind("an attribute of an object")


def _path(*parts: Any) -> Converted:
    text = "/".join(p for p in parts if isinstance(p, str))
    return Converted(text.replace("//", "/"), "a path, kept as text")


def _moment(kind: type, nbytes: int = 0) -> Any:
    """A moment that is pickled as so many bytes."""

    def build(*arguments: Any) -> Converted:
        plain = [old_data(a, nbytes) for a in arguments]
        plain = [a for a in plain if isinstance(a, (int, bytes))]
        lacking = " without its time zone" if len(plain) < len(arguments) else ""
        return Converted(str(kind(*plain)), f"a datetime.{kind.__name__}, kept as text{lacking}")

    return build


def _ndarray_from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> Any:
    return array_of(bytes(data) if isinstance(data, bytearray) else data, dtype, shape, order == "F")


def _jax_array(_: Any = None, __: Any = None, state: Any = None, *___: Any) -> ArrayInPickle:
    """An array of jax is pickled as what makes an empty numpy array, arguments to it, and the state of the full one."""
    array = ArrayInPickle()
    array.set_pickled_state(state)
    return array


def _not_carried(what: str) -> Any:
    return lambda *_, **__: LeftBehind(what)


_TABLE: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
    "torch._utils._rebuild_qtensor": quantized,
    "torch._utils._rebuild_sparse_tensor": sparse,
    "torch._utils._rebuild_sparse_csr_tensor": sparse,
    "torch._utils._rebuild_nested_tensor": _not_carried("a nested tensor; save its parts"),
    "torch._utils._rebuild_meta_tensor_no_storage": _not_carried("a tensor on the meta device, which has no values"),
    "torch._utils._rebuild_wrapper_subclass": _not_carried("a tensor subclass without values of its own"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_xla_tensor": _from_numpy,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.parameter.Buffer": _first,
    "torch.autograd.variable.Variable": _first,
    "torch.fx.graph_module.reduce_graph_module": traced_module,
    "torch.fx.graph_module.reduce_package_graph_module": traced_module,
    "torch.serialization._get_layout": _layout,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
    "torch.device": _device,
    "torch.Size": lambda shape=(): torch.Size(checked_shape(shape)),
    "collections.OrderedDict": lambda pairs=(): OrderedDict(_plain_dict(pairs)),
    "collections.defaultdict": lambda *_: defaultdict(),
    "collections.Counter": lambda pairs=(): Counter(_plain_dict(pairs)),
    "collections.deque": lambda values=(), *_: deque(_items(values)),
    "builtins.set": _set,
    "builtins.frozenset": lambda values=(): frozenset(_set(values)),
    "builtins.list": _items,
    "builtins.tuple": lambda values=(): tuple(_items(values)),
    "builtins.dict": _plain_dict,
    "builtins.bytes": _bytes,
    "builtins.bytearray": lambda *arguments: bytearray(_bytes(*arguments)),
    "builtins.complex": _complex,
    "builtins.slice": _number_slice,
    "builtins.getattr": _attribute,
    "builtins.range": range,
    "builtins.xrange": range,
    "_codecs.encode": _bytes,
    "pathlib.PosixPath": _path,
    "pathlib.WindowsPath": _path,
    "pathlib.PurePosixPath": _path,
    "pathlib._local.PosixPath": _path,
    "datetime.datetime": _moment(datetime.datetime, 10),
    "datetime.date": _moment(datetime.date, 4),
    "datetime.time": _moment(datetime.time, 6),
    "datetime.timedelta": _moment(datetime.timedelta),
    "numpy.dtype": DtypeInPickle,
    "numpy.ndarray": ArrayInPickle,
    "numpy._core.multiarray._reconstruct": ArrayInPickle,
    "numpy._core.multiarray.scalar": scalar_of,
    "numpy._core.numeric._frombuffer": _ndarray_from_buffer,
    "jax._src.array._reconstruct_array": _jax_array,
}
