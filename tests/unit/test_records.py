"""records.py: what its classes have in common with those of the standard dataclasses."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import pytest

from corepipe_engine import records


def make(module: ModuleType) -> tuple[Any, Any, Any]:
    """The same three classes by either module: a frozen one, one derived from it, one that may change."""

    @module.dataclass(frozen=True, slots=True)
    class Base:
        """Told."""

        name: str
        sizes: tuple[int, ...] = ()

        @property
        def total(self) -> int:
            return sum(self.sizes)

    @module.dataclass(frozen=True, slots=True)
    class Derived(Base):  # type: ignore[misc]
        more: list[int] = module.field(default_factory=list)
        act: Any = module.field(default=len)

    @module.dataclass(slots=True)
    class Counter:
        count: int = 0
        seen: dict[str, int] = module.field(default_factory=dict)

        def add(self) -> None:
            self.count += 1

    return Base, Derived, Counter


@pytest.fixture(params=[records, dataclasses], ids=["ours", "the original"])
def classes(request: pytest.FixtureRequest) -> tuple[ModuleType, Any, Any, Any]:
    return (request.param, *make(request.param))


Classes = tuple[ModuleType, Any, Any, Any]


def test_fields_are_taken_by_place_and_by_name(classes: Classes) -> None:
    _, base, derived, counter = classes
    assert base("a", (1, 2)).total == base(sizes=(1, 2), name="a").total == 3
    full = derived("a", (), [1])
    assert (full.name, full.sizes, full.more, full.act("abc")) == ("a", (), [1], 3)
    assert counter().count == 0
    assert base.__doc__ == "Told."
    for wrong in ((), ("a", (), 3)):
        with pytest.raises(TypeError, match="__init__"):
            base(*wrong)
    with pytest.raises(TypeError, match="size"):
        base("a", size=1)


def test_a_default_that_is_made_is_made_for_each(classes: Classes) -> None:
    _, _, derived, counter = classes
    assert derived("a").more is not derived("a").more
    assert counter().seen is not counter().seen


def test_records_are_equal_by_class_and_fields(classes: Classes) -> None:
    _, base, derived, counter = classes
    assert base("a") == base("a", ())
    assert base("a") != base("b")
    assert base("a") != derived("a")
    assert base("a") != ("a", ())
    assert counter() == counter()
    assert counter() != counter(1)
    assert hash(base("a")) == hash(base("a", ()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(counter())


def test_only_what_is_not_frozen_changes_and_nothing_grows(classes: Classes) -> None:
    _, base, derived, counter = classes
    for frozen in (base("a"), derived("a")):
        with pytest.raises(AttributeError):
            frozen.name = "b"
        with pytest.raises(AttributeError):
            del frozen.name
        assert not hasattr(frozen, "__dict__")
    one = counter()
    one.add()
    one.seen["a"] = 1
    assert (one.count, one.seen) == (1, {"a": 1})
    with pytest.raises(AttributeError):
        one.other = 1


def test_a_record_can_be_copied_with_changes_and_told(classes: Classes) -> None:
    module, base, derived, _ = classes
    assert module.replace(base("a"), sizes=(1,)) == base("a", (1,))
    with pytest.raises(TypeError):
        module.replace(base("a"), size=1)
    assert module.asdict(derived("a", (1,), [2], None)) == {"name": "a", "sizes": (1,), "more": [2], "act": None}
    assert repr(base("a", (1,))).endswith("Base(name='a', sizes=(1,))")
