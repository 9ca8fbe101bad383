"""Measure, print, keep: see tests/bench/run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import machine, planning, sizes, stops, streams, writing
from .dumps import Engine, dump
from .programs import Beating, Programs, build
from .rounds import Rounds
from .tables import all_tables, main_tables

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
REPEATS, QUICK_REPEATS = 5, 3
PARTS = {"stops": 300.0, "writing": 360.0, "streams": 500.0, "planning": 560.0}
"""Each part, and the seconds from the start after which it makes no more rounds than it must."""
SIZES, SIZES_SECONDS = "sizes", 300.0
"""A part that is for those who work on the stream, and is made only when it is asked for."""
SIZES_BEGIN, SIZES_END = "<!-- bench-sizes:begin -->", "<!-- bench-sizes:end -->"
_FLAT, _FLAT_QUICK = (64, 16384), (64,)
"""MiB of the targets that show whether the stream's speed and the engine's memory stay as they are."""
_CAT = (("cat", streams.WRITERS),)
_COMPRESSORS = (("zstd -1", ("corepipe", "limit")), ("zstd -T0", ("corepipe", "limit")))


def main() -> int:
    options = _parse()
    if options.from_file:
        record = json.loads(options.from_file.read_text())
    else:
        if os.geteuid() != 0:
            print("tests/bench/run: as root, please", file=sys.stderr)
            return 3
        record = _measure(options)
        _keep(record)
    if record.get("sizes"):
        print(sizes.table(record))
        if options.readme:
            put_between(REPOSITORY / "README.md", SIZES_BEGIN, SIZES_END, sizes.table(record))
        return 0
    print(all_tables(record))
    if options.readme:
        put_into_readme(REPOSITORY / "README.md", main_tables(record))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="small targets, few repeats")
    parser.add_argument("--repeats", type=int, metavar="N", help=f"rounds (default {REPEATS}, quick {QUICK_REPEATS})")
    parser.add_argument("--only", choices=(*PARTS, SIZES), action="append", help="this part only; may be given again")
    parser.add_argument("--engine", type=Path, default=REPOSITORY, metavar="FOLDER", help="holds corepipe_engine")
    parser.add_argument("--from", dest="from_file", type=Path, metavar="JSON", help="the result of an earlier run")
    parser.add_argument("--readme", action="store_true", help="put the main tables into README.md")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    parts = options.only or PARTS
    record: dict[str, Any] = {"machine": machine.describe(), "quick": options.quick, "repeats": repeats}
    record |= {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "stops": [], "writing": []}
    record |= {"streams": [], "planning": [], "starts": []}
    _say(", ".join(f"{name} {value}" for name, value in record["machine"].items()))
    begun = time.monotonic()
    rounds = {name: Rounds(repeats, begun + seconds) for name, seconds in PARTS.items()}
    with tempfile.TemporaryDirectory(prefix="corepipe-bench-") as folder:
        programs = build(Path(folder))
        engine = Engine(options.engine.resolve(), Path(folder, "cache"))
        _warm_up(engine, programs)
        if SIZES in parts:
            mib = 256 if options.quick else 2048
            some = Rounds(repeats, begun + SIZES_SECONDS)
            record["sizes"] = [_plain(one) for one in sizes.measure(mib, programs, some, _say)]
            record["seconds"] = time.monotonic() - begun
            return record
        if "stops" in parts:
            for case in stops.QUICK if options.quick else stops.FULL:
                _say(f"stop of {case.mib} MiB, {case.threads} threads and the heart, {case.pages} pages")
                record["stops"].append(_plain(stops.measure(case, engine, programs, rounds["stops"], _say)))
        if "writing" in parts:
            mib = 128 if options.quick else 512
            _say(f"a thread that writes to {mib} MiB")
            record["writing"] = [
                _plain(one) for one in writing.measure(mib, writing.SINKS, engine, programs, rounds["writing"], _say)
            ]
        if "streams" in parts:
            mib = 512 if options.quick else 2048
            for pages, sinks in (("small", (*_CAT, *_COMPRESSORS)), ("huge", _CAT)):
                _say(f"stream of {mib} MiB, {pages} pages")
                record["streams"] += [
                    _plain(one) for one in streams.measure(mib, pages, sinks, engine, programs, rounds["streams"], _say)
                ]
            for size in _FLAT_QUICK if options.quick else _FLAT:
                _say(f"stream of {size} MiB, small pages, corepipe alone")
                alone = (("cat", ("corepipe",)),)
                record["streams"] += [
                    _plain(one)
                    for one in streams.measure(size, "small", alone, engine, programs, rounds["streams"].fewer(), _say)
                ]
        if "planning" in parts:
            _say("plans")
            record["planning"] = [
                _plain(one) for one in planning.measure(engine, programs, rounds["planning"].fewer(), _say)
            ]
            record["starts"] = [_plain(one) for one in planning.measure_start(engine, rounds["planning"])]
    record["seconds"] = time.monotonic() - begun
    return record


def _plain(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)


def _warm_up(engine: Engine, programs: Programs) -> None:
    """Let Python compile all modules, as an installation has done."""
    with Beating(programs.beating, 1) as target:
        for mode in ("snapshot", "buffer", "direct"):
            dump(engine, target.pid, "--mode", mode, "-q")


def _keep(record: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    name = ("quick-" if record["quick"] else "") + time.strftime("%Y%m%d-%H%M%S")
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(sizes.table(record) if record.get("sizes") else all_tables(record))
    _say(f"kept in {RESULTS / name}.json and .md")


def put_into_readme(path: Path, tables: str) -> None:
    """Replace what stands between the two marks; without marks a section is added at the end."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        path.write_text(f"{text.rstrip()}\n\n## Figures\n\n{BEGIN}\n{END}\n")
    put_between(path, BEGIN, END, tables)


def put_between(path: Path, begin: str, end: str, tables: str) -> None:
    """Replace what stands between two marks."""
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n{tables.rstrip()}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
