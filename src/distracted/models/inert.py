"""Reading pickles without running anything: each class and function that a pickle names becomes a record.

The result is a tree of plain values and of `Inert` records. Nothing is imported, and nothing is called except
the constructors of these records. Tensors are records, too.
"""

import pickle
from collections.abc import Callable
from typing import IO, Any, ClassVar, NoReturn


class Inert:
    """Stands for an object of a class, or for a call of a function, that the pickle names.

    Attributes:
        name: Full name of the class or function.
        args: What it would be called with.
        state: What its `__setstate__` would get.
        items: Its items, if it is a mapping; `elements` those of a list or set.
    """

    __slots__ = ("args", "elements", "items", "state")
    name = ""
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]
    elements: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        # A pickle may use a call's result as a class.
        self = super().__new__(cls if isinstance(cls, type) else Inert)
        self.args, self.state, self.items, self.elements = args, None, {}, []
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return record(f"{self.name}()")(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def extend(self, values: Any) -> None:
        self.elements.extend(values)

    def append(self, value: Any) -> None:
        self.elements.append(value)

    add = append


def record(name: str) -> type[Inert]:
    """The class of the records of what has this full name."""
    return type(name.rpartition(".")[2], (Inert,), {"name": name, "__slots__": ()})


class _Attribute(Inert):
    """A call of getattr, which older protocols write for a class within a class: the record of that class."""

    __slots__ = ()
    name = "builtins.getattr"

    def __new__(cls, *args: Any) -> Any:
        if len(args) == 2 and isinstance(args[0], type) and issubclass(args[0], Inert):
            return record(f"{args[0].name}.{args[1]}")
        return super().__new__(cls, *args)


class InertUnpickler(pickle._Unpickler):  # the one in C fills memory for a damaged file's memo numbers
    """Reads one pickle into plain values and `Inert` records.

    Args:
        load_storage: Called with the persistent ids that torch gives to the values of tensors.
    """

    def __init__(self, file: IO[bytes], load_storage: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, encoding="latin1")  # files of Python 2 hold names and arrays as bytes
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> type[Inert]:
        full = f"{module}.{name}"
        return _Attribute if full in ("builtins.getattr", "__builtin__.getattr") else record(full)

    def load_bytearray8(self) -> None:  # as bytes: their number is compared with what is there
        self.load_binbytes8()  # type: ignore[attr-defined]
        self.stack[-1] = bytearray(self.stack[-1])  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

    def get_extension(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError("extension codes are not read")

    def persistent_load(self, pid: Any) -> Any:
        if self._load_storage is None:
            raise pickle.UnpicklingError("persistent ids are not expected here")
        return self._load_storage(pid)
