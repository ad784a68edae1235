"""What code of your own does, as text that is the same in every process.

A codec that a notebook defines is no part of this package, so its runs are keyed by what it does:
by its values, and by the instructions of its classes and functions, with all that these reach.
Installed code, as this package's is, goes by its name.

Instructions, since the source of a class that a notebook defines cannot always be had.
"""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import functools
import sys
import types
from collections.abc import Iterator, Sequence

from fedutils.errors import UsageError

_ATOMS = (bool, int, float, complex, str, bytes, type(None))


def of(value: object) -> str:
    """Returns a text that differs if what a value does differs.

    Args:
        value: Numbers, strings, arrays, functions, objects and whatever is made of them.

    Raises:
        UsageError: If something in it, for example a lock or an open file, is known in this process
            alone.
    """
    return repr(_Teller({}).tell(value))


class _Teller:
    """Tells values as nested lists of texts; one that was met before, by its number.

    Objects go by their fields if they are dataclasses, else by what pickle would keep of them.
    """

    def __init__(self, met: dict[object, tuple[int, object]]) -> None:
        self._met = met

    def tell(self, value: object) -> object:
        kind = type(value)
        if kind in _ATOMS:
            return repr(value)
        if kind is tuple:
            return ["tuple", *map(self.tell, value)]
        if kind in (set, frozenset):
            # They have no order, so none of them is told as met in another.
            return ["set", *sorted(repr(_Teller(dict(self._met)).tell(each)) for each in value)]
        if kind is types.CodeType:
            return self._code(value)
        return self._once(id(value), value) or self._object(value)

    def _once(self, key: object, value: object) -> str:
        """The number of what was met before; else empty, and it is from now on."""
        if key in self._met:
            return f"number {self._met[key][0]}"
        self._met[key] = len(self._met), value  # held, so that no other gets its id
        return ""

    def _object(self, value: object) -> object:
        match value:
            case types.ModuleType():
                return f"module {value.__name__}"
            case type() | types.FunctionType() if not _is_own(value.__module__):
                return f"{value.__module__}.{value.__qualname__}"
            case type():
                return self._class(value)
            case types.FunctionType():
                return self._function(value)
            case property():
                return ["property", *map(self.tell, (value.fget, value.fset, value.fdel))]
            case functools.cached_property():
                return ["property", self.tell(value.func)]
            case _ if hasattr(value, "__wrapped__"):  # of a class method, of tf.function
                return [self.tell(type(value)), self.tell(value.__wrapped__)]
            case _ if dataclasses.is_dataclass(value):
                fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
                return [self.tell(type(value)), self.tell(fields)]
            case list() if type(value) is list:
                return ["list", *map(self.tell, value)]
            case dict() if type(value) is dict:
                return ["dict", *map(self.tell, value.items())]
        return self._pickled(value)

    def _class(self, value: type) -> list:
        own = {
            name: attribute
            for name, attribute in vars(value).items()
            if isinstance(attribute, types.FunctionType)
            or not (name.startswith("__") or name == "_abc_impl")
        }
        return [value.__qualname__, self.tell(value.__bases__), self.tell(own)]

    def _function(self, value: types.FunctionType) -> list:
        codes = list(_codes(value.__code__))
        instructions = [each for code in codes for each in dis.get_instructions(code)]
        loaded = {i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        names = sorted({name for code in codes for name in code.co_names})
        reached = {n: value.__globals__[n] for n in sorted(loaded & value.__globals__.keys())}
        return [
            self._code(value.__code__),
            self.tell((value.__defaults__, value.__kwdefaults__)),
            [self._used(each, names) for each in _enclosed(value)],
            [[name, self._used(each, names)] for name, each in reached.items()],
        ]

    def _used(self, value: object, names: Sequence[str]) -> object:
        """What a function reaches; of a module, the attributes of these names."""
        if not (isinstance(value, types.ModuleType) and _is_own(value.__name__)):
            return self.tell(value)
        return self._once((id(value), *names), value) or [
            [name, self._used(getattr(value, name), names)]
            for name in names
            if hasattr(value, name)
        ]

    def _code(self, code: types.CodeType) -> list:
        return [
            *(code.co_code.hex(), code.co_exceptiontable.hex()),
            *(code.co_argcount, code.co_kwonlyargcount, code.co_flags),
            *(code.co_names, code.co_varnames, self.tell(code.co_consts)),
        ]

    def _pickled(self, value: object) -> list:
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            kept = reduce(value) if reduce else value.__reduce_ex__(2)
        except Exception as error:  # whatever an object's own method raises
            raise UsageError(
                f"{value!r:.100} is known in this process alone ({error}), so what uses it cannot "
                "be told in another: make it of numbers, strings, arrays and functions"
            ) from error
        if isinstance(kept, str):  # the name of a global
            return [getattr(value, "__module__", None), kept]
        items = [list(each or ()) for each in kept[3:]]
        return [self.tell(kept[:3]), *map(self.tell, items)]


def _is_own(module: str | None) -> bool:
    """Whether a module is neither of this package, nor of Python, nor installed."""
    root = (module or "").partition(".")[0]
    if root == "fedutils" or root in sys.stdlib_module_names:
        return False
    found = sys.modules.get(root)
    places = [getattr(found, "__file__", None) or "", *getattr(found, "__path__", ())]
    return root == "__main__" or not any("-packages" in place for place in places)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _enclosed(function: types.FunctionType) -> list[object]:
    """What a function's closure holds; None for what is not assigned yet."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(None)
    return found
