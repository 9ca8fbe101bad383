"""events.py: what one process writes, the other reads back, whatever stands in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine import events
from corepipe_engine.events import Event, Phase, from_json, to_json

texts = st.text(st.characters(), max_size=40)  # surrogates too: names of processes are bytes of any kind
seconds = st.floats(min_value=0, max_value=1e9)
sizes = st.integers(0, (1 << 64) - 1)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), sizes, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
FIELDS = {
    "str": texts,
    "int": sizes,
    "float": seconds,
    "Phase": st.sampled_from(list(Phase)),
    "list[str]": st.lists(texts, max_size=3),
    "dict[str, float]": st.dictionaries(texts, seconds, max_size=3),
    "dict[str, Any]": st.dictionaries(texts, plain, max_size=4),
}
CLASSES = [
    cls for cls in vars(events).values() if isinstance(cls, type) and issubclass(cls, Event) and cls is not Event
]


@pytest.mark.parametrize("cls", CLASSES, ids=[cls.__name__ for cls in CLASSES])
@given(st.data())
def test_every_event_survives_the_way_through_a_line(cls: type[Event], data: st.DataObject) -> None:
    values = {name: data.draw(FIELDS[kind]) for name, kind in cls.__annotations__.items()}
    event = cls(**values)
    line = to_json(event)
    assert line.isascii()
    assert "\n" not in line
    assert from_json(line) == event
    assert from_json(line.encode("ascii") + b"\n") == event


def test_every_event_can_be_read_back() -> None:
    assert {cls.__name__ for cls in CLASSES} == {cls.__name__ for cls in events._CLASSES.values()}


def test_a_phase_is_read_back_as_a_phase() -> None:
    event = from_json('{"event":"phasechanged","phase":"freeze","at":1}')
    assert isinstance(event, events.PhaseChanged)
    assert event.phase is Phase.FREEZE


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        "{}",
        '{"event":"nothing"}',
        '{"event":["notice"]}',
        '{"event":"notice"}',
        '{"event":"notice","text":"a","more":1}',
        '{"event":"phasechanged","phase":"lunch","at":1}',
        b"\xff\xfe",
    ],
)
def test_a_line_that_is_no_event_is_a_value_error(line: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_json(line)


@given(
    st.one_of(st.text(max_size=60), st.binary(max_size=60), plain.map(lambda value: __import__("json").dumps(value)))
)
def test_any_line_is_an_event_or_a_value_error(line: str | bytes) -> None:
    try:
        from_json(line)
    except ValueError:
        pass
