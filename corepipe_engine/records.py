"""The part of the standard `dataclasses` that the engine uses, made in a tenth of the time.

That module compiles up to six methods for each class and loads `inspect` for it: with some fifty classes this was half
of the processor time of a small dump. Here one is compiled, and the others are the same functions for all classes.
A type checker sees the originals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import asdict as asdict
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:
    _T = TypeVar("_T")
    _FIELDS, _DEFAULTS = "__record_fields__", "__record_defaults__"
    _ABSENT: Any = type("_Absent", (), {"__repr__": lambda self: "..."})()

    class field:  # noqa: N801 - a function in the original
        """A default that is made anew for each record, or one that is given."""

        def __init__(self, *, default: Any = _ABSENT, default_factory: Callable[[], Any] | None = None) -> None:
            self.default = default
            self.factory = default_factory

    def dataclass(*, frozen: bool = False, slots: bool = True) -> Callable[[type[_T]], type[_T]]:
        """Return a decorator that makes a class with annotations a record. It always has slots."""
        return lambda cls: _make(cls, frozen)

    def _make(cls: type[_T], frozen: bool) -> type[_T]:
        inherited = getattr(cls, _FIELDS, ())
        own = tuple(name for name in cls.__annotations__ if name not in inherited)
        namespace = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        defaults = getattr(cls, _DEFAULTS, {}) | {name: namespace.pop(name) for name in own if name in namespace}
        namespace |= {"__slots__": own, _FIELDS: inherited + own, _DEFAULTS: defaults}
        namespace |= {"__repr__": _repr, "__eq__": _eq, "__hash__": None}
        if frozen:
            namespace |= {"__hash__": _hash, "__setattr__": _refuse, "__delattr__": _refuse}
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        made.__init__ = _init(made, defaults)
        return made

    def _init(cls: type[Any], defaults: dict[str, Any]) -> Callable[..., None]:
        scope: dict[str, Any] = {"_absent": _ABSENT}
        parameters, lines = ["self"], ["pass"]
        for name in getattr(cls, _FIELDS):
            scope[f"_set_{name}"] = getattr(cls, name).__set__  # a slot: the way in for frozen records too
            value = name
            default = defaults.get(name, _ABSENT)
            if isinstance(default, field):
                factory, default = default.factory, default.default
                if factory is not None:
                    scope[f"_new_{name}"] = factory
                    value = f"_new_{name}() if {name} is _absent else {name}"
                    scope[f"_default_{name}"] = _ABSENT
            if default is not _ABSENT:
                scope[f"_default_{name}"] = default
            parameters.append(f"{name}=_default_{name}" if f"_default_{name}" in scope else name)
            lines.append(f"_set_{name}(self, {value})")
        exec(f"def __init__({', '.join(parameters)}):\n " + "\n ".join(lines), scope)
        made: Callable[..., None] = scope["__init__"]
        made.__qualname__ = f"{cls.__qualname__}.__init__"
        return made

    def asdict(record: Any) -> dict[str, Any]:
        """Return the fields by name. Unlike the original it leaves values as they are, records too."""
        return {name: getattr(record, name) for name in getattr(record, _FIELDS)}

    def replace(record: _T, /, **changes: Any) -> _T:
        """Return a record with some fields changed. TypeError for a name that is none."""
        return type(record)(**(asdict(record) | changes))

    def _values(record: Any) -> tuple[Any, ...]:
        return tuple(getattr(record, name) for name in getattr(record, _FIELDS))

    def _repr(self: Any) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        return f"{type(self).__qualname__}({fields})"

    def _eq(self: Any, other: object) -> Any:
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self: Any) -> int:
        return hash(_values(self))

    def _refuse(self: Any, name: str, value: object = None) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name}")
