"""options.py: what the user interface passes to the engine is what the person chose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.errors import UsageError
from corepipe_engine.options import (
    ArgumentParser,
    DumpOptions,
    Holes,
    ModeChoice,
    Shared,
    add_dump_options,
    options_from,
    to_arguments,
)
from corepipe_engine.policy import ALL_BITS, Policy, Preset, parse_selector
from corepipe_engine.regions import RegionKind


def parse(arguments: list[str]) -> DumpOptions:
    parser = ArgumentParser(prog="corepipe", allow_abbrev=False)
    add_dump_options(parser)
    return options_from(parser.parse_args(arguments))


selectors = st.one_of(
    st.sampled_from([kind.value for kind in RegionKind]),
    st.tuples(st.integers(0, 1 << 47), st.integers(1, 1 << 40)).map(lambda pair: f"{pair[0]:x}-{sum(pair):x}"),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: "/" + text),
).map(parse_selector)
dump_options = st.builds(
    DumpOptions,
    mode=st.sampled_from(list(ModeChoice)),
    max_stop=st.one_of(st.none(), st.floats(min_value=0, max_value=1e9, exclude_min=True, allow_subnormal=False)),
    policy=st.builds(
        Policy,
        preset=st.sampled_from(list(Preset)),
        filter_bits=st.one_of(st.none(), st.integers(0, ALL_BITS)),
        rules=st.lists(st.tuples(st.booleans(), selectors), max_size=4).map(tuple),
    ),
    holes=st.sampled_from(list(Holes)),
    shared=st.sampled_from(list(Shared)),
)


@given(dump_options)
def test_options_survive_the_way_through_a_command_line(options: DumpOptions) -> None:
    assert parse(to_arguments(options)) == options


def test_defaults_are_left_out() -> None:
    assert to_arguments(DumpOptions()) == []
    assert parse([]) == DumpOptions()


def test_rules_keep_their_order_and_may_be_comma_separated() -> None:
    options = parse(["--exclude", "anon,heap", "--include", "/bin/*", "--exclude", "file"])
    assert [(include, selector.text) for include, selector in options.policy.rules] == [
        (False, "anon"),
        (False, "heap"),
        (True, "/bin/*"),
        (False, "file"),
    ]


@pytest.mark.parametrize("path", ["/srv/a,b/lib.so", "*/x,heap", "/a,/b", "[stack],x"])
def test_a_path_may_hold_commas(path: str) -> None:
    (rule,) = parse(["--exclude", path]).policy.rules
    assert rule[1].glob is not None
    assert rule[1].text == path


@pytest.mark.parametrize("text", ["anon,/bin/*", "7f00-7f10,*/libjvm.so", "nothing,/x"])
def test_a_path_in_a_list_is_refused_and_the_way_to_say_it_is_told(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(["--include", text])
    assert "paths may hold commas" in caught.value.message
    assert caught.value.hint == "repeat the option for the glob"


def test_one_command_line_leaves_nothing_to_the_next() -> None:
    parser = ArgumentParser(prog="corepipe", allow_abbrev=False)
    add_dump_options(parser)
    parser.parse_args(["--exclude", "anon"])
    assert options_from(parser.parse_args([])).policy.rules == ()


@pytest.mark.parametrize("text", ["33", "0x33", "1ff", "0"])
def test_filter_is_hexadecimal(text: str) -> None:
    assert parse(["--filter", text]).policy.filter_bits == int(text, 16)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--filter", "200"],
        ["--filter", "-1"],
        ["--filter", "zz"],
        ["--max-stop", "0"],
        ["--max-stop", "-1"],
        ["--max-stop", "soon"],
        ["--max-stop", "inf"],
        ["--max-stop", "nan"],
        ["--mode", "fork"],
        ["--preset", "tiny"],
        ["--holes", "none"],
        ["--shared", "never"],
        ["--include", "nothing-like-it"],
        ["--exclude", "anon,"],
        ["--unknown"],
        ["--mod", "direct"],
    ],
)
def test_nonsense_is_a_usage_error_with_a_hint(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert caught.value.hint


words = st.one_of(
    st.sampled_from(
        [
            "--mode",
            "--max-stop",
            "--preset",
            "--filter",
            "--include",
            "--exclude",
            "--holes",
            "--shared",
            "--",
            "-",
            "=",
        ]
    ),
    st.sampled_from(["direct", "0x1ff", "anon,heap", "7f0000000000-7f0000001000", "-1", "1e400", "\0", "[", "*["]),
    st.text(max_size=20),
)


@given(st.lists(words, max_size=6))
def test_any_words_are_options_or_a_usage_error(arguments: list[str]) -> None:
    try:
        assert isinstance(parse(arguments), DumpOptions)
    except UsageError as error:
        assert error.message  # noqa: PT017
