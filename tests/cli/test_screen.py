"""What a person sees of a run."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from streamproc.cli.screen import Lines, Screen, View, drawing, in_words, instant
from streamproc.core.batch import Counts, Emit, Step
from streamproc.ports import Commit
from tests.embedded.machine import Script
from tests.observability.plans import letter

AT = 1_700_000_000_000


def row(key: str, value: str, at: int = AT) -> Emit:
    """A result for a topic."""
    return Emit(key.encode(), value.encode(), at, (), None)


def window(key: str, count: int) -> Emit:
    """The result of a window of a minute."""
    return row(key, f'{{"key":"{key}","start":{AT - 20_000},"end":{AT + 40_000},"value":{count}}}')


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def screen(clock: Clock, drawn: View | Lines | None) -> Screen:
    """A screen over a source that is half read."""
    source = Script("clicks", [[], []])
    source.read(1)
    return Screen([source], frozenset({"counts", "late"}), clock, drawn, "http://127.0.0.1:9400")


def busy(seen: Screen, *rows: Emit) -> None:
    """A step in which everything happens, and its commit."""
    seen.read("clicks", 0, 1000, 5000, 1000)
    counts = Counts(late={("n", "skip"): 2, ("m", "skip"): 1}, closed={"n": 4})
    seen.stepped("clicks/0", Step(emits={"counts": list(rows)}, counts=counts), 1000, 0.1)
    seen.committed(Commit(emits={("counts", 0): list(rows), ("dead", 0): [row("k", "1")]}), [letter()], 0.1)


def test_a_summary_counts_what_became_of_records() -> None:
    """Everything is counted once, results when they are committed, dead letters apart from results."""
    clock = Clock()
    seen = screen(clock, None)
    busy(seen, window("ann", 3), window("bob", 4))
    clock.now = 2.0
    assert seen.summary() == (
        "read 1,000, emitted 2, late 3, dead-lettered 1, windows closed 4 in 2.00 s, 500 records/s"
    )


def test_the_view_has_the_newest_results_the_progress_and_the_address() -> None:
    """The newest result of each key stands first; below it how far reading has come."""
    clock = Clock()
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    view = View(Live(console=console, auto_refresh=False), results=True)
    seen = screen(clock, view)
    clock.now = 1.0
    busy(seen, window("ann", 3), window("bob", 4), window("ann", 5))
    console.print(view.picture(seen))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    start = max(number for number, line in enumerate(lines) if line.startswith("topic"))
    assert [line.split() for line in lines[start : start + 3]] == [
        ["topic", "key", "time", "value"],
        ["counts", "ann", "2023-11-14", "22:14", "5"],
        ["counts", "bob", "2023-11-14", "22:14", "4"],
    ]
    assert "50% 1,000 records 1,000 records/s" in lines[-3]
    assert lines[-2:] == [
        "read 1,000, emitted 3, late 3, dead-lettered 1, windows closed 4",
        "metrics http://127.0.0.1:9400/metrics",
    ]


def test_plain_lines_come_once_a_second() -> None:
    """Without a terminal the newest result of each topic and the progress are written, and nothing between."""
    clock, out = Clock(), io.StringIO()
    seen = screen(clock, Lines(out, results=True, drawn=0.0))
    busy(seen, *(window(f"user{number}", number) for number in range(9)))
    assert out.getvalue() == ""
    clock.now = 1.5
    busy(seen, window("ann", 3))
    assert out.getvalue().splitlines() == [
        "counts  ann  2023-11-14 22:14  3",
        "read 2,000, emitted 9, late 6, dead-lettered 1, windows closed 8 (50%)",
    ]


def test_a_screen_keeps_few_results() -> None:
    """However many keys there are, only the newest are remembered."""
    clock = Clock()
    seen = screen(clock, Lines(io.StringIO(), results=True, drawn=0.0))
    for number in range(1000):
        busy(seen, *(window(f"{number} {key}", key) for key in range(5)))
    assert len(seen.newest) <= 120
    assert seen.last(1) == [("counts", "999 4", "2023-11-14 22:14", "4")]


@pytest.mark.parametrize(
    ("emit", "words"),
    [
        (row("k", '{"a":1,"b":[0.12345,1234.56,null]}'), ("k", "2023-11-14 22:13:20", "a 1, b 0.123, 1,234.6, null")),
        (Emit(None, None, AT + 5, (), None), ("", "2023-11-14 22:13:20", "null")),
        (Emit(b"\xff", b"not json", 2**62, (), None), ("\N{REPLACEMENT CHARACTER}", str(2**62), "not json")),
        (row("k", '"' + "x" * 100 + '"'), ("k", "2023-11-14 22:13:20", "x" * 57 + "...")),
    ],
)
def test_a_result_becomes_words(emit: Emit, words: tuple[str, str, str]) -> None:
    """Whatever is written can be shown in a line."""
    assert in_words(emit) == words


def test_an_instant_is_read_by_people() -> None:
    """Seconds are left out where there are none."""
    assert [instant(each) for each in (0, 1001, -1)] == [
        "1970-01-01 00:00",
        "1970-01-01 00:00:01",
        "1969-12-31 23:59:59",
    ]


def test_only_a_terminal_gets_a_view(tmp_path: Path) -> None:
    """A file gets lines; beside data on standard output it gets nothing."""
    with (tmp_path / "out").open("w") as stream:
        assert isinstance(drawing(stream, 0.0, beside=False, results=True)[0], Lines)
        assert drawing(stream, 0.0, beside=True, results=False)[0] is None
