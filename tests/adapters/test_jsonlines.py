"""Lines in and out: every line once, with its number, from anywhere on; and outputs that end where the commit ends."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.adapters import jsonlines
from streamproc.adapters.codecs import JsonSerde, field_of
from streamproc.adapters.jsonlines import JsonLinesOutput, JsonLinesSource, StdoutOutput
from streamproc.core.errors import ConfigError, StateError
from streamproc.ports import Source

Row = tuple[int, int, bytes | None, bytes | None]


def by_length(key: bytes, partitions: int) -> int:
    """A partitioner one can check in one's head."""
    return len(key) % partitions


def source(path: Path | str, **settings: Any) -> JsonLinesSource:
    """A source that is not open yet."""
    return JsonLinesSource(
        "in", path, partition_of=by_length, encode_key=JsonSerde().encode_key, field_of=field_of, **settings
    )


def rows(of: Source, limit: int = 1000) -> list[Row]:
    """(offset, partition, key, value) of everything at hand."""
    found: list[Row] = []
    while runs := of.read(limit):
        taken = 0
        for run in runs:
            assert len(run.offsets) == len(run.values) == len(run.keys or run.values)
            assert list(run.offsets) == sorted(run.offsets)
            keys = run.keys or [None] * len(run.values)
            found.extend(zip(run.offsets, [run.partition] * len(keys), keys, run.values, strict=True))
            taken += len(run.values)
        assert 0 < taken <= limit
    return sorted(found, key=lambda row: row[0])


def everything(path: Path | str, bookmark: Any = None, limit: int = 1000, **settings: Any) -> list[Row]:
    """All there is from a bookmark on, in a new source."""
    with closing(source(path, **settings)) as one:
        one.open(bookmark)
        return rows(one, limit)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Makes files."""

    def make(text: bytes, name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return path

    return make


def test_a_source_is_a_source() -> None:
    """The types agree with the port."""
    one: Source = source("-")
    assert one.topic == "in"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"1\n2\n", [(0, b"1"), (1, b"2")]),
        (b"1\n2", [(0, b"1"), (1, b"2")]),
        (b"1\r\n\r\n2\r\n", [(0, b"1"), (2, b"2")]),
        (b"\n1\n\n\n2", [(1, b"1"), (4, b"2")]),
        (b"\xef\xbb\xbf1\n2\n", [(0, b"1"), (1, b"2")]),
        (b"1 \n \n\x0b\xff\x00\n", [(0, b"1 "), (1, b" "), (2, b"\x0b\xff\x00")]),
    ],
)
@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in"])
def test_a_line_is_what_ends_with_a_newline(write: Any, text: bytes, expected: list[Any], name: str) -> None:
    """Empty lines are counted and left out, a carriage return goes, all other bytes stay."""
    assert [(offset, value) for offset, _, _, value in everything(write(text, name))] == expected


def test_lines_go_round_the_partitions(write: Any) -> None:
    """Line n goes to partition n mod N, blank ones counted."""
    path = write(b"a\nb\n\nd\ne\n")
    assert everything(path, partitions=3) == [
        (0, 0, None, b"a"),
        (1, 1, None, b"b"),
        (3, 0, None, b"d"),
        (4, 1, None, b"e"),
    ]


def test_lines_with_a_key_go_to_its_partition(write: Any) -> None:
    """The key is the field as it would be written; without one the number of the line decides."""
    lines = [
        b'{"k":"abc"}',
        b'{"k":7}',
        b"",
        b'{"k":null}',
        b"{}",
        b"[1]",
        b'{"k":',
        b'{"x":1,"k":[1, 2]}',
        b'{"k":"\\ud800"}',
    ]
    path = write(b"\n".join(lines))
    assert everything(path, partitions=4, key_field="k") == [
        (0, 3, b"abc", lines[0]),
        (1, 1, b"7", lines[1]),
        (3, 3, None, lines[3]),
        (4, 0, None, lines[4]),
        (5, 1, None, lines[5]),
        (6, 2, None, lines[6]),
        (7, 1, b"[1,2]", lines[7]),
        (8, 0, None, lines[8]),
    ]
    assert [key for _, _, key, _ in everything(path, key_field="k")][:2] == [b"abc", b"7"]


def test_one_field_of_a_line() -> None:
    """The last of equal names counts, any name will do, and only objects have fields."""
    assert field_of(b'{"a":1,"a":{"b":2}}', "a") == {"b": 2}
    assert field_of(b'{"":"x"}', "") == "x"
    assert field_of(b'{"b":1}', "a") is field_of(b'{"a":null}', "a") is None
    for raw in (b"", b"[]", b"1", b"{", b"[" * 100_000, b'{"a":' + b"[" * 100_000):
        with pytest.raises(ValueError, match=r".*"):
            field_of(raw, "a")


pieces = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"bc", b"{}", b"x" * 30, b"\xef\xbb\xbf"]), max_size=30)


def model(texts: list[bytes], most: int = 1000) -> list[tuple[int, bytes]]:
    """Lines by the book: each text by itself, numbers over all of them."""
    found: list[tuple[int, bytes]] = []
    number = 0
    for text in texts:
        lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        for line in lines[:-1] if not lines[-1] else lines:
            kept = line.removesuffix(b"\r")
            if len(line) > most:
                kept = line[:1024] + b"\0 cut: a line longer than %d bytes" % most
            if kept:
                found.append((number, kept))
            number += 1
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces.map(b"".join), min_size=1, max_size=4), st.data())
def test_every_line_comes_once_and_again_from_any_bookmark(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], data: st.DataObject
) -> None:
    """However chunks, limits and files cut the text, and wherever a run goes on."""
    chunk = data.draw(st.integers(3, 9))
    settings: dict[str, Any] = {
        "partitions": data.draw(st.integers(1, 3)),
        "max_line": data.draw(st.sampled_from([8, 1000])),
    }
    limit = data.draw(st.integers(1, 5))
    folder = tmp_path_factory.mktemp("lines")
    for number, text in enumerate(texts):
        name = f"{number}.jsonl" + data.draw(st.sampled_from(["", "", ".gz"]))
        (folder / name).write_bytes(gzip.compress(text) if name.endswith("z") else text)
    expected = model(texts, settings["max_line"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonlines, "_CHUNK", chunk)
        patch.setattr(jsonlines, "_SPACING", data.draw(st.integers(1, 20)))
        with closing(source(folder, **settings)) as one:
            one.open(None)
            marks = [(0, one.bookmark(0))]
            found: list[Row] = []
            while runs := one.read(limit):
                found += [(o, r.partition, None, v) for r in runs for o, v in zip(r.offsets, r.values, strict=True)]
                if found:
                    offset = data.draw(st.integers(0, max(found)[0] + 1))
                    marks.append((offset, one.bookmark(offset)))
            assert one.ended
            assert one.read_bytes == one.total_bytes
        assert [(offset, value) for offset, _, _, value in sorted(found)] == expected
        assert all(partition == offset % settings["partitions"] for offset, partition, _, _ in found)
        for offset, mark in marks:
            again = [(o, v) for o, _, _, v in everything(folder, mark, limit, **settings)]
            assert again == [(o, v) for o, v in expected if o >= offset]


@settings(max_examples=80, deadline=None)
@given(st.lists(pieces.map(b"".join), max_size=6), st.data())
def test_a_followed_file_gives_whole_lines_as_they_come(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], data: st.DataObject
) -> None:
    """Nothing of a line before its newline, everything after it, over restarts; and it never ends."""
    path = tmp_path_factory.mktemp("follow") / "in.jsonl"
    path.touch()
    found: list[tuple[int, bytes | None]] = []
    restarts = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    one = source(path, follow=True)
    one.open(None)
    try:
        for text, restart in zip(texts, restarts, strict=True):
            with path.open("ab") as file:
                file.write(text)
            found += [(offset, value) for offset, _, _, value in rows(one)]
            whole = path.read_bytes()
            assert found == model([whole[: whole.rfind(b"\n") + 1]])
            assert not one.ended
            if restart:
                mark = one.bookmark(found[-1][0] + 1 if found else 0)
                one.close()
                one = source(path, follow=True)
                one.open(mark)
    finally:
        one.close()


def test_a_followed_directory_gives_later_files(write: Any, tmp_path: Path) -> None:
    """A new file completes the one before, whose last line then needs no newline."""
    write(b"1\n2", "d/a.jsonl")
    with closing(source(tmp_path / "d", follow=True)) as one:
        one.open(None)
        assert [row[3] for row in rows(one)] == [b"1"]
        with (tmp_path / "d" / "a.jsonl").open("ab") as file:
            file.write(b"2")
        write(b"3\n", "d/b.ndjson")
        write(b"4\n", "d/c.json.gz")
        write(b"no", "d/readme.txt")
        write(b"no", "d/.hidden.jsonl")
        assert [row[3] for row in rows(one)] == [b"22", b"3", b"4"]
        assert not one.ended
        write(b"0\n", "d/0.jsonl")
        with pytest.raises(ConfigError, match=r"0\.jsonl comes before c\.json\.gz.*later name"):
            one.read(10)


def test_an_empty_directory_can_be_followed_and_nothing_else(tmp_path: Path, write: Any) -> None:
    """Without --follow it is a mistake."""
    folder = tmp_path / "d"
    folder.mkdir()
    with pytest.raises(ConfigError, match="holds no file to read"):
        source(folder).open(None)
    with closing(source(folder, follow=True)) as one:
        one.open(None)
        assert (one.read(10), one.bookmark(0), one.ended) == ([], {"offset": 0}, False)
        write(b"1\n", "d/a.jsonl")
        assert rows(one) == [(0, 0, None, b"1")]


def test_files_that_are_not_as_they_were(write: Any, tmp_path: Path) -> None:
    """Gone, cut, replaced, or preceded by a new one: the place to go on from is not there."""
    path = write(b'{"n":1}\n' * 20_000, "d/m.jsonl")
    with closing(source(path)) as one:
        one.open(None)
        rows(one)
        mark = one.bookmark(20_000)
    assert mark["byte"] > 0 or mark["offset"] == 20_000
    with closing(source(path)) as one:
        one.open(None)
        one.read(10)
        early = one.bookmark(10)
    whole = path.read_bytes()
    path.write_bytes(whole + b"new\n")
    assert everything(path, mark) == [(20_000, 0, None, b"new")]
    path.write_bytes(whole)
    write(b"0\n", "d/a.jsonl")
    with pytest.raises(ConfigError, match=r"new files that come before m\.jsonl"):
        everything(tmp_path / "d", mark)
    (tmp_path / "d" / "a.jsonl").unlink()
    path.unlink()
    write(b"0\n", "d/z.jsonl")
    with pytest.raises(ConfigError, match=r"m\.jsonl is gone"):
        everything(tmp_path / "d", mark)
    with pytest.raises(ConfigError, match="is not there: check the path"):
        everything(path, early)


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_a_file_that_was_cut_or_replaced_is_refused(write: Any, name: str) -> None:
    """By its size, its first bytes, and those before the place."""
    lines = [b'{"n":%d}' % n for n in range(300_000)]
    path = write(b"\n".join((*lines, b"")), name)
    with closing(source(path)) as one:
        one.open(None)
        rows(one, 100_000)
        mark = one.bookmark(250_000)
    assert mark["byte"] > 1_000_000
    assert mark["line"] <= 250_000
    assert [row[0] for row in everything(path, mark)] == list(range(250_000, 300_000))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(ConfigError, match="shorter than what was read"):
        everything(path, mark)
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(ConfigError, match=r"not the file that was read|damaged"):
        everything(path, mark)
    if name == "in.jsonl":
        path.write_bytes(whole[:2000] + b"\n" + whole[2000:])
        with pytest.raises(ConfigError, match="not the file that was read"):
            everything(path, mark)


def test_a_followed_file_may_not_be_rewritten(write: Any) -> None:
    """Cut or replaced under our eyes, it is refused."""
    path = write(b"1\n2\n3\n")
    with closing(source(path, follow=True)) as one:
        one.open(None)
        assert len(rows(one)) == 3
        path.write_bytes(b"1\n")
        with pytest.raises(ConfigError, match="was cut while it was followed"):
            one.read(10)
    path = write(b"1\n")
    with closing(source(path, follow=True)) as one:
        one.open(None)
        assert len(rows(one)) == 1
        write(b"1\n2\n", "other").rename(path)
        with pytest.raises(ConfigError, match="was replaced while it was followed"):
            one.read(10)


def test_damaged_gzip_is_told(write: Any) -> None:
    """A file cut short, and one that is none."""
    path = write(os.urandom(100_000).hex().encode(), "in.jsonl.gz")
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(ConfigError, match="no complete gzip file"):
        everything(path)
    path.write_bytes(b'{"n":1}\n')
    with pytest.raises(ConfigError, match="no complete gzip file"):
        everything(path)


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_lines_of_ten_megabytes_are_records_like_others(write: Any, name: str) -> None:
    """They are read in many chunks, and stay one line."""
    long = b'"' + b"x" * 10_000_000 + b'"'
    assert [row[3] for row in everything(write(b"1\n" + long + b"\n2\n", name))] == [b"1", long, b"2"]


def test_a_line_without_end_is_one_failed_record(write: Any) -> None:
    """Beyond the bound only its beginning is kept, and no JSON type can be read from it."""
    path = write(b"1\n" + b"9" * 5_000_000 + b"\n2\n" + b"8" * 3_000_000)
    found = [row[3] for row in everything(path, max_line=2_000_000)]
    cut = b"\0 cut: a line longer than 2000000 bytes"
    assert found == [b"1", b"9" * 1024 + cut, b"2", b"8" * 1024 + cut]
    assert [index for index, _ in JsonSerde().decoder(Any).decode(found).failed] == [1, 3]


def test_fingerprints_tell_growth(write: Any, tmp_path: Path) -> None:
    """Taken at the end of a run and before the next they differ iff something came after the end."""
    path = write(b"1\n", "d/a.jsonl")
    write(b"2\n", "d/b.jsonl.gz")
    one = source(tmp_path / "d")
    one.open(None)
    rows(one)
    before = one.fingerprint()
    assert before == source(tmp_path / "d").fingerprint()
    path.write_bytes(b"1\n2\n")
    assert one.fingerprint() == before
    one.close()
    assert source(tmp_path / "d").fingerprint() == {**before, "a.jsonl": 4}
    write(b"", "d/c.jsonl")
    assert source(tmp_path / "d").fingerprint() == {**before, "a.jsonl": 4, "c.jsonl": 0}
    assert source("-").fingerprint() is None


def test_how_far_reading_has_come(write: Any, tmp_path: Path) -> None:
    """In bytes of the files as they are, and unknown of standard input."""
    plain, packed = write(b"1\n" * 50, "d/a.jsonl"), write(b"2\n" * 50, "d/b.jsonl.gz")
    with closing(source(tmp_path / "d")) as one:
        assert (one.read_bytes, one.total_bytes) == (0, 100 + packed.stat().st_size)
        one.open(None)
        one.read(50)
        assert one.read_bytes == plain.stat().st_size
        rows(one)
        assert one.read_bytes == one.total_bytes
    assert source("-").total_bytes is None


def test_a_source_must_be_opened(write: Any) -> None:
    """Reading from a closed one is a mistake of the program."""
    with pytest.raises(RuntimeError, match="not open"):
        source(write(b"1\n")).read(1)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe; the writing one may be closed by the test."""
    reading, writing = os.pipe()
    yield reading, writing
    for each in (reading, writing):
        with suppress(OSError):
            os.close(each)


def test_standard_input_gives_what_is_there(pipe: tuple[int, int]) -> None:
    """It never waits, holds back half a line, and ends when the writer has gone."""
    reading, writing = pipe
    one = source("-", stdin=reading)
    one.open(None)
    assert (one.read(10), one.ended) == ([], False)
    os.write(writing, b"\xef\xbb\xbf1\n2\n3")
    assert [row[3] for row in rows(one)] == [b"1", b"2"]
    os.write(writing, b"3\n4")
    assert [row[3] for row in rows(one, 1)] == [b"33"]
    os.close(writing)
    assert (one.ended, rows(one), one.ended) == (False, [(3, 0, None, b"4")], True)
    assert one.read_bytes == 11
    assert one.bookmark(4) == {"offset": 4}
    one.close()


def test_standard_input_goes_on_behind_the_lines_already_committed(pipe: tuple[int, int]) -> None:
    """A bookmark of it is a number of lines to leave out."""
    reading, writing = pipe
    os.write(writing, b"1\n\n3\n4\n")
    one = source("-", stdin=reading)
    one.open({"offset": 3})
    assert rows(one) == [(3, 0, None, b"4")]
    os.close(writing)
    assert (one.read(1), one.ended) == ([], True)


def test_outputs_begin_where_the_commit_ended(tmp_path: Path) -> None:
    """What a run wrote and did not commit is cut off by the next."""
    path = tmp_path / "out.jsonl"
    out = JsonLinesOutput(path)
    out.open(None)
    assert out.sync() == 0
    out.append([b'{"n":1}', None])
    length = out.sync()
    assert (length, path.read_bytes()) == (13, b'{"n":1}\nnull\n')
    out.append([b"lost", b"too"])
    out.append([])
    out.close()
    out = JsonLinesOutput(path)
    out.open(length)
    out.append(iter([b"2"]))
    assert (out.sync(), path.read_bytes()) == (15, b'{"n":1}\nnull\n2\n')
    out.close()
    out.close()


def test_outputs_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    """Lines of others, a file that lost some, one that was exchanged; nothing of it is touched."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"theirs\n")
    for length, error, words in [
        (None, ConfigError, "already has lines.*remove it, name another output, or the state file"),
        (8, StateError, "has 7 bytes, and 8 were committed"),
        (3, StateError, "not the file that was written"),
    ]:
        with pytest.raises(error, match=words):
            JsonLinesOutput(path).open(length)
    assert path.read_bytes() == b"theirs\n"
    for place in (tmp_path, tmp_path / "missing" / "out.jsonl"):
        with pytest.raises(ConfigError, match="cannot be written"):
            JsonLinesOutput(place).open(None)
    path.write_bytes(b"")
    first = JsonLinesOutput(path)
    first.open(None)
    with pytest.raises(ConfigError, match="written by another process"):
        JsonLinesOutput(path).open(None)
    first.close()


def test_a_value_is_one_line(tmp_path: Path) -> None:
    """One with a newline is refused before anything is written."""
    path = tmp_path / "out.jsonl"
    out = JsonLinesOutput(path)
    out.open(None)
    with pytest.raises(ValueError, match="newline"):
        out.append([b"1", b"2\n3"])
    out.append([b"4"])
    out.close()
    assert path.read_bytes() == b"4\n"


def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files does for a disk: the half line goes, and the output can be gone on with."""
    code = """
import resource, signal, sys
from streamproc.adapters.jsonlines import JsonLinesOutput
from streamproc.core.errors import StateError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
out = JsonLinesOutput(sys.argv[1])
out.open(None)
out.append([b"x" * 59])
try:
    out.append([b"y" * 59])
except StateError as error:
    print(error)
out.append([b"z" * 19])
print(out.sync())
"""
    path = tmp_path / "out.jsonl"
    said = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert said == f"the disk is full: {path} has all lines that were committed\n80\n"
    assert path.read_bytes() == b"x" * 59 + b"\n" + b"z" * 19 + b"\n"


def test_a_device_is_an_output_that_is_never_cut() -> None:
    """/dev/null takes everything, at any committed length."""
    for length in (None, 100):
        out = JsonLinesOutput("/dev/null")
        out.open(length)
        out.append([b"1"])
        assert out.sync() == 2
        out.close()


def test_standard_output_gets_lines_at_once(pipe: tuple[int, int]) -> None:
    """And a reader that has gone is the caller's matter."""
    reading, writing = pipe
    out = StdoutOutput(writing)
    out.open(55)
    out.append([b"1", None])
    assert os.read(reading, 100) == b"1\nnull\n"
    assert out.sync() == 7
    with pytest.raises(ValueError, match="newline"):
        out.append([b"\n"])
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        out.append([b"2"])
    out.close()
