"""A pickle machine that calls nothing but what it is handed: no import, no attribute access, no foreign code.

It executes the opcodes of protocols 0 to 5. Globals are resolved by a function of the caller's; calling a Constructor
runs our own checked code, calling anything else yields a StandIn. Work and memory are linear in the pickle's length.
"""

import pickle
import struct
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, BinaryIO

from hmcompress.checkpoint.calls import call, check_key, size_of
from hmcompress.checkpoint.limits import Budget
from hmcompress.checkpoint.standins import StandIn
from hmcompress.checkpoint.versions import hang_versions
from hmcompress.errors import SourceError

_FAULTS = (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, struct.error)


class Stream:
    """Bytes read once, in order, never beyond `size`."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        """The next `count` bytes. Raises SourceError where there are fewer."""
        if count > self._left or len(data := self._file.read(count)) != count:
            raise SourceError("truncated: its pickle ends too early; copy or download it again")
        self._left -= count
        return data

    def readline(self) -> bytes:
        """The next line without its end."""
        line = self._file.readline(self._left)
        if not line.endswith(b"\n"):
            raise SourceError("truncated: its pickle ends too early; copy or download it again")
        self._left -= len(line)
        return line[:-1]

    @property
    def left(self) -> int:
        return self._left


class Machine:
    """Runs one pickle from a stream; `load` returns the object."""

    def __init__(
        self,
        stream: Stream,
        find_global: Callable[[str, str], Any],
        persistent_load: Callable[[Any], Any] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._stream = stream
        self._budget = budget or Budget(stream.left)
        self._find = find_global
        self._persistent = persistent_load
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The unpickled object. Raises SourceError where the pickle is damaged or asks for the unknown."""
        try:
            while (code := self._stream.read(1)) != pickle.STOP:
                handler = _HANDLERS.get(code)
                if handler is None:
                    raise SourceError(f"damaged: {code!r} is no opcode of a pickle")
                handler(self)
            return self._stack.pop()
        except _FAULTS as error:
            raise SourceError(f"damaged: its pickle cannot be read ({type(error).__name__})") from error

    # Stack and memo -------------------------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def pop_or_mark(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    # Bytes of the stream --------------------------------------------------------------------------------------------

    def number(self, form: str) -> Any:
        return struct.unpack(form, self._stream.read(struct.calcsize(form)))[0]

    def counted(self, form: str) -> bytes:
        """Bytes after their count; a negative or absurd count reads as truncated."""
        if (count := self.number(form)) < 0:
            raise ValueError("negative count")
        return self._stream.read(count)

    def line(self) -> str:
        return self._stream.readline().decode("utf-8", "surrogateescape")

    # Opcodes with some body -----------------------------------------------------------------------------------------

    def protocol(self) -> None:
        if (version := self.number("B")) > pickle.HIGHEST_PROTOCOL:
            raise SourceError(f"damaged, or a pickle of an unknown protocol ({version})")

    def text_int(self) -> None:
        line = self.line()
        self.push({"00": False, "01": True}[line] if line in ("00", "01") else int(line))

    def quoted(self) -> None:
        line = self._stream.readline().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("string without quotes")
        self.push(old_string(line[1:-1].decode("unicode_escape").encode("latin-1")))

    def global_by_lines(self) -> None:
        module, name = self.line(), self.line()
        self.push(self._find(module, name))

    def global_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global without a name")
        self.push(self._find(module, name))

    def persistent(self, key: Any) -> None:
        if self._persistent is None:
            raise SourceError("its pickle refers to data outside of it, which is not a form that torch.save writes")
        self.push(self._persistent(key))

    def call(self, target: Any, arguments: Any, keywords: Any = None) -> None:
        """Push what a call gives. Constructors may copy what they are given, so shared arguments count each time."""
        self._budget.spend(size_of(arguments))
        self.push(call(target, arguments, keywords))

    def reduce(self) -> None:
        arguments, target = self.pop(), self.pop()
        self.call(target, arguments)

    def new_object_with_keywords(self) -> None:
        keywords, arguments, target = self.pop(), self.pop(), self.pop()
        self.call(target, arguments, keywords)

    def instance_by_lines(self) -> None:
        target = self._find(self.line(), self.line())
        self.call(target, tuple(self.pop_mark()))

    def instance_from_stack(self) -> None:
        target, *arguments = self.pop_mark()
        self.call(target, tuple(arguments))

    def build(self) -> None:
        state, target = self.pop(), self._stack[-1]
        self._budget.spend(size_of(state))
        if isinstance(target, StandIn):
            target.states.append(state)
        elif hasattr(type(target), "set_pickled_state"):  # stand-ins of numpy's arrays and dtypes
            target.set_pickled_state(state)
        elif type(target) is OrderedDict:
            hang_versions(target, state)

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, StandIn):
            target.items.extend(values)
        elif isinstance(target, (list, deque)):
            target.extend(values)
        else:
            raise TypeError("append to something that is no list")

    def set_items(self, flat: list[Any]) -> None:
        target = self._stack[-1]
        entries = target.entries if isinstance(target, StandIn) else target
        if type(entries) not in (dict, OrderedDict, defaultdict) or len(flat) % 2:
            raise TypeError("items set on something that is no dict")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            entries[check_key(key)] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def add_items(self) -> None:
        items, target = self.pop_mark(), self._stack[-1]
        if isinstance(target, StandIn):
            target.items.extend(items)
        elif type(target) is set:
            target.update(check_key(item) for item in items)
        else:
            raise TypeError("items added to something that is no set")

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("stack underflow")
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self.push(items)

    def dict_from_mark(self) -> None:
        flat = self.pop_mark()
        self.push({})
        self.set_items(flat)


def old_string(data: bytes) -> str | bytes:
    """A Python 2 string: text where it is text, else bytes (array data)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


_HANDLERS: dict[bytes, Callable[[Machine], Any]] = {
    pickle.PROTO: Machine.protocol,
    pickle.FRAME: lambda m: m.number("<Q"),
    pickle.MARK: Machine.mark,
    pickle.POP: Machine.pop_or_mark,
    pickle.POP_MARK: Machine.pop_mark,
    pickle.DUP: lambda m: m.push(m._stack[-1]),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: Machine.text_int,
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG: lambda m: m.push(int(m.line().rstrip("L"))),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.counted("B"), "little", signed=True)),
    pickle.LONG4: lambda m: m.push(int.from_bytes(m.counted("<i"), "little", signed=True)),
    pickle.FLOAT: lambda m: m.push(float(m.line())),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.STRING: Machine.quoted,
    pickle.BINSTRING: lambda m: m.push(old_string(m.counted("<i"))),
    pickle.SHORT_BINSTRING: lambda m: m.push(old_string(m.counted("B"))),
    pickle.UNICODE: lambda m: m.push(m._stream.readline().decode("raw-unicode-escape")),
    pickle.BINUNICODE: lambda m: m.push(_text(m.counted("<I"))),
    pickle.SHORT_BINUNICODE: lambda m: m.push(_text(m.counted("B"))),
    pickle.BINUNICODE8: lambda m: m.push(_text(m.counted("<Q"))),
    pickle.BINBYTES: lambda m: m.push(m.counted("<I")),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.counted("B")),
    pickle.BINBYTES8: lambda m: m.push(m.counted("<Q")),
    pickle.BYTEARRAY8: lambda m: m.push(bytearray(m.counted("<Q"))),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_mark())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.pop_mark()),
    pickle.APPEND: lambda m: m.append([m.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: Machine.dict_from_mark,
    pickle.SETITEM: Machine.set_item,
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    pickle.EMPTY_SET: lambda m: m.push(set()),
    pickle.ADDITEMS: Machine.add_items,
    pickle.FROZENSET: lambda m: m.push(frozenset(check_key(item) for item in m.pop_mark())),
    pickle.PUT: lambda m: m.put(int(m.line())),
    pickle.BINPUT: lambda m: m.put(m.number("B")),
    pickle.LONG_BINPUT: lambda m: m.put(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.put(len(m._memo)),
    pickle.GET: lambda m: m.get(int(m.line())),
    pickle.BINGET: lambda m: m.get(m.number("B")),
    pickle.LONG_BINGET: lambda m: m.get(m.number("<I")),
    pickle.GLOBAL: Machine.global_by_lines,
    pickle.STACK_GLOBAL: Machine.global_from_stack,
    pickle.REDUCE: Machine.reduce,
    pickle.NEWOBJ: Machine.reduce,
    pickle.NEWOBJ_EX: Machine.new_object_with_keywords,
    pickle.INST: Machine.instance_by_lines,
    pickle.OBJ: Machine.instance_from_stack,
    pickle.BUILD: Machine.build,
    pickle.PERSID: lambda m: m.persistent(m.line()),
    pickle.BINPERSID: lambda m: m.persistent(m.pop()),
}
