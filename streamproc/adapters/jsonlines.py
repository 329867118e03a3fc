"""JSON lines: files, directories and standard input as sources; files and standard output as outputs.

    line      0       1     2 (blank)   3       numbers count over all files of a source
    offset    0       1                 3       a blank line keeps its number and is no record
    partition 0 mod N 1 mod N           3 mod N, or that of the key field

Lines are cut from chunks of 1 MiB by C loops; nothing is done per line unless there is a key field.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import select
import stat
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from streamproc.core.errors import ConfigError, StateError
from streamproc.ports import Run

MAX_LINE = 64 * 2**20
"""How long a line may be, in bytes, unless said otherwise."""

ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
"""The files of a directory that are read."""

_CHUNK = 2**20
_PIPE = 2**16
_SPACING = 2**16
_EXCERPT = 1024
_BOM = b"\xef\xbb\xbf"


class _Lines(Protocol):
    """What a source reads from: whole lines, counted."""

    line: int

    @property
    def position(self) -> int: ...

    def more(self) -> list[bytes] | None:
        """Lines at hand now, none for none; None once there will be no more."""
        ...

    def close(self) -> None: ...


class JsonLinesSource:
    """Implements `ports.Source` over a file, a gzip file, a directory of them in name order, or standard input (`-`).

    A line is what ends with a newline, which may follow a carriage return; its offset is its number over the
    whole source, from 0.  An empty line is no record.  The last line of a file needs no newline, unless the
    file is followed and no later one is there: then it is held back.  A line longer than `max_line` bytes
    becomes one record that no JSON type can be read from: its first KiB, a NUL, and a remark.

    Without `key_field` line n goes to partition n mod `partitions`, and has no key.  With it the key is
    `encode_key(field_of(line, key_field))` and the partition `partition_of(key, partitions)`; a line of which
    `field_of` gives None or raises ValueError has no key.

    With `follow` a file may grow, and a directory get files with later names; a file must then be written
    under another name first if it is to appear whole.  Every method raises ConfigError for a file that is
    gone, was cut or replaced, or cannot be read.
    """

    def __init__(  # noqa: PLR0913 - one parameter a setting
        self,
        topic: str,
        path: str | Path,
        *,
        partition_of: Callable[[bytes, int], int],
        encode_key: Callable[[Any], bytes],
        field_of: Callable[[bytes, str], Any],
        key_field: str | None = None,
        partitions: int = 1,
        follow: bool = False,
        max_line: int = MAX_LINE,
        stdin: int = 0,
    ) -> None:
        self._topic = topic
        self._path = None if str(path) == "-" else Path(path)
        self._partition_of = partition_of
        self._encode_key = encode_key
        self._field_of = field_of
        self._key_field = key_field
        self._partitions = partitions
        self._follow = follow
        self._max_line = max_line
        self._stdin = stdin
        self._lines: _Lines | None = None
        self._ended = False
        self._skip_to = 0
        self._first = 0
        self._pending: list[bytes] = []

    @property
    def topic(self) -> str:
        """The topic these lines are the records of."""
        return self._topic

    @property
    def ended(self) -> bool:
        """Whether everything has been read: never of followed files, of standard input at its end."""
        return self._ended and not self._pending

    @property
    def read_bytes(self) -> int:
        """How many bytes have been read, compressed ones where a file is."""
        return 0 if self._lines is None else self._lines.position

    @property
    def total_bytes(self) -> int | None:
        """The size of all files now; None of standard input."""
        return None if self._path is None else sum(_size(each) for each in _listed(self._path))

    def open(self, bookmark: Any | None) -> None:
        """Begin with the line of a bookmark, or with the first.

        Of standard input, and with a bookmark taken from it, the lines before are read and left out.
        """
        self._skip_to = 0 if bookmark is None else bookmark["offset"]
        if self._path is None:
            self._lines = _Pipe(self._stdin, self._max_line)
        else:
            self._lines = files = _Files(self._path, self._max_line, follow=self._follow)
            if bookmark is not None and "file" in bookmark:
                files.return_to(_Place(**{name: bookmark[name] for name in _Place._fields}))

    def read(self, limit: int) -> list[Run]:
        """Up to `limit` lines that are at hand now, as runs by partition, without waiting."""
        lines = self._opened()
        while True:
            self._gather(lines, limit)
            if not self._pending:
                return []
            first, taken = self._first, self._pending[:limit]
            self._first += len(taken)
            self._pending = self._pending[limit:]
            runs = self._spread(first, taken) if self._key_field is None else self._keyed(self._key_field, first, taken)
            if runs:
                return runs

    def _gather(self, lines: _Lines, limit: int) -> None:
        """Gets lines until `limit` of them are pending, or no more are at hand."""
        while len(self._pending) < limit:
            line = lines.line
            found = lines.more()
            if not found:
                self._ended = found is None
                return
            past = max(0, self._skip_to - line)
            if not self._pending:
                self._first = line + past
            self._pending += found[past:]

    def bookmark(self, offset: int) -> Any:
        """The place of the line with this number, among those read since `open` and the one after them."""
        lines = self._opened()
        return lines.place(offset) if isinstance(lines, _Files) else {"offset": offset}

    def fingerprint(self) -> Any:
        """The size of each file by name: what has been read of it, or is there; None of standard input."""
        if self._path is None:
            return None
        read = self._lines.sizes if isinstance(self._lines, _Files) else {}
        return {each.name: read.get(each.name, _size(each)) for each in _listed(self._path)}

    def close(self) -> None:
        """Closes the files; standard input stays open."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _opened(self) -> _Lines:
        if self._lines is None:
            raise RuntimeError("the source is not open")
        return self._lines

    def _spread(self, first: int, lines: list[bytes]) -> list[Run]:
        """Line n to partition n mod N."""
        runs: list[Run] = []
        blanks = b"" in lines
        for start in range(min(self._partitions, len(lines))):
            values: list[bytes | None] = list(lines[start :: self._partitions])
            offsets: Sequence[int] = range(first + start, first + len(lines), self._partitions)
            if blanks:
                offsets = [offset for offset, value in zip(offsets, values, strict=True) if value]
                values = [value for value in values if value]
            if values:
                runs.append(Run((first + start) % self._partitions, offsets, values))
        return runs

    def _keyed(self, field: str, first: int, lines: list[bytes]) -> list[Run]:
        """Each line to the partition of its key, or of its number if it has none."""
        found: dict[int, tuple[list[int], list[bytes | None], list[bytes | None]]] = {}
        for offset, line in enumerate(lines, first):
            if not line:
                continue
            key = self._key(field, line)
            partition = offset % self._partitions if key is None else self._partition_of(key, self._partitions)
            offsets, values, keys = found.setdefault(partition, ([], [], []))
            offsets.append(offset)
            values.append(line)
            keys.append(key)
        return [Run(partition, *parts) for partition, parts in found.items()]

    def _key(self, field: str, line: bytes) -> bytes | None:
        try:
            value = self._field_of(line, field)
            return None if value is None else self._encode_key(value)
        except (ValueError, TypeError):
            return None


class _Cutter:
    """Chunks to lines; what follows the last newline is held for the next chunk."""

    __slots__ = ("_fresh", "_held", "most", "size")

    def __init__(self, most: int, *, fresh: bool = True) -> None:
        self.most = most
        self._fresh = fresh
        self._held: list[bytes] = []
        self.size = 0

    def cut(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes; a byte order mark before the first is left out."""
        if self._fresh:
            self._fresh, chunk = False, chunk.removeprefix(_BOM)
        end = chunk.rfind(b"\n")
        if end < 0:
            self._hold(chunk)
            return []
        whole = b"".join((*self._held, chunk[:end]))
        lines = whole.split(b"\n")
        if max(len(whole), self.size) > self.most:
            lines[:] = [
                self._bounded(lines[0], max(self.size, len(lines[0]))),
                *map(self._bounded, lines[1:]),
            ]
        if b"\r" in whole:
            lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
        self._held, self.size = [], 0
        self._hold(chunk[end + 1 :])
        return lines

    def rest(self) -> list[bytes]:
        """The last line, if it has no newline."""
        return self.cut(b"\n") if self.size else []

    def _hold(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._held.append(chunk)
        self.size += len(chunk)
        if self.size > self.most:
            self._held = [b"".join(self._held)[: _EXCERPT + 1]]

    def _bounded(self, line: bytes, size: int | None = None) -> bytes:
        if (len(line) if size is None else size) <= self.most:
            return line
        return line[:_EXCERPT] + b"\0 cut: a line longer than %d bytes" % self.most


class _Pipe:
    """Standard input: what is there, 64 KiB at a time."""

    def __init__(self, source: int, max_line: int) -> None:
        self._source = source
        self._cutter = _Cutter(max_line)
        self._at_end = False
        self._position = 0
        self.line = 0

    @property
    def position(self) -> int:
        return self._position

    def more(self) -> list[bytes] | None:
        lines: list[bytes] = []
        while not self._at_end and not lines and select.select([self._source], [], [], 0)[0]:
            chunk = os.read(self._source, _PIPE)
            self._position += len(chunk)
            self._at_end = not chunk
            lines = self._cutter.cut(chunk) if chunk else self._cutter.rest()
        self.line += len(lines)
        return None if self._at_end and not lines else lines

    def close(self) -> None:
        """Standard input is not ours."""


class _Place(NamedTuple):
    """The start of a line: its number, file and byte, how many files come before, and what surrounds it."""

    line: int
    file: str
    byte: int
    before: int
    head: tuple[int, int]
    tail: tuple[int, int]


class _Open:
    """One file being read, at a byte of its (decompressed) text."""

    __slots__ = ("_raw", "_text", "byte", "cutter", "file", "zipped")

    def __init__(self, file: Path, max_line: int) -> None:
        self.file = file
        self.zipped = file.name.endswith(".gz")
        self.byte = 0
        self.cutter = _Cutter(max_line)
        try:
            self._raw = file.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(file, error) from error
        self._text = cast("BinaryIO", gzip.GzipFile(fileobj=self._raw)) if self.zipped else self._raw

    @property
    def start(self) -> int:
        """The byte at which the next line starts."""
        return self.byte - self.cutter.size

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return self._raw.tell()

    def stat(self) -> os.stat_result:
        """What the file system knows of it."""
        return os.fstat(self._raw.fileno())

    def excerpt(self, start: int, end: int) -> tuple[int, int]:
        """Length and checksum of some bytes of the file as it is."""
        return end - start, zlib.crc32(os.pread(self._raw.fileno(), end - start, start))

    def chunk(self) -> bytes:
        """The next bytes of the text, none at its end."""
        try:
            chunk = self._text.read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(self.file, error) from error
        self.byte += len(chunk)
        return chunk

    def seek(self, byte: int) -> None:
        """Goes to the start of a line."""
        try:
            self.byte = self._text.seek(byte)
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(self.file, error) from error
        self.cutter = _Cutter(self.cutter.most, fresh=byte == 0)

    def close(self) -> None:
        self._text.close()
        self._raw.close()


class _Files:
    """Files one after the other, with places to come back to."""

    def __init__(self, path: Path, max_line: int, *, follow: bool) -> None:
        self._path = path
        self._follow = follow
        self._max_line = max_line
        self._files = _listed(path)
        if not self._files and not follow:
            raise ConfigError(f"{path} holds no file to read: their names end with {', '.join(ENDINGS)}")
        self._next = 0
        self._open: _Open | None = None
        self._places: list[_Place] = []
        self._before = 0
        self.sizes: dict[str, int] = {}
        self.line = 0

    @property
    def position(self) -> int:
        return self._before + (0 if self._open is None else self._open.position)

    def more(self) -> list[bytes] | None:
        complete = False
        while True:
            opened = self._opened()
            if opened is None:
                return [] if self._follow else None
            self._note(opened)
            chunk = opened.chunk()
            if chunk:
                lines = opened.cutter.cut(chunk)
            elif self._follow and not complete:
                self._look_again()
                if self._next == len(self._files):
                    return []
                complete = True  # for a later file is there: but perhaps only since just now, so look once more
                continue
            else:
                complete = False
                lines = opened.cutter.rest()
                self._finish(opened)
            if lines:
                self.line += len(lines)
                return lines

    def place(self, offset: int) -> dict[str, Any]:
        """The last noted place at or before a line, and that line."""
        opened = self._open if self._places else self._opened()
        if opened is not None:
            self._note(opened)
        found = bisect_right(self._places, offset, key=lambda place: place.line)
        return {"offset": offset, **(self._places[found - 1]._asdict() if found else {})}

    def return_to(self, place: _Place) -> None:
        """Goes on where an earlier run stopped, if that place is still the same."""
        if self._path.is_dir():
            names = [file.name for file in self._files]
            if place.file not in names:
                raise ConfigError(f"{self._path / place.file} is gone, and has not been read to its end: put it back")
            self._next = names.index(place.file)
            if self._next > place.before:
                raise ConfigError(
                    f"{self._path} has new files that come before {place.file}, which is being read: "
                    "give them later names"
                )
        self._before = sum(map(_size, self._files[: self._next]))
        self.line = place.line
        self._open = opened = _Open(self._files[self._next], self._max_line)
        self._next += 1
        if opened.stat().st_size < (place.tail[0] if opened.zipped else place.byte):
            raise ConfigError(
                f"{opened.file} is shorter than what was read of it: put it back, or begin with another state file"
            )
        ends = [(0, place.head)] if opened.zipped else [(0, place.head), (place.byte - place.tail[0], place.tail)]
        if any(opened.excerpt(start, start + end[0]) != tuple(end) for start, end in ends):
            raise ConfigError(
                f"{opened.file} is not the file that was read: put that back, or begin with another state file"
            )
        opened.seek(place.byte)

    def close(self) -> None:
        if self._open is not None:
            self._finish(self._open)

    def _opened(self) -> _Open | None:
        """The file being read, or else the next; None if there is none."""
        if self._open is None:
            if self._next == len(self._files) and self._follow:
                self._look_again()
            if self._next < len(self._files):
                self._open = _Open(self._files[self._next], self._max_line)
                self._next += 1
        return self._open

    def _finish(self, opened: _Open) -> None:
        self.sizes[opened.file.name] = size = opened.position
        self._before += size
        opened.close()
        self._open = None

    def _note(self, opened: _Open) -> None:
        """Remembers where the next line starts, at the start of each file and then each 64 KiB or so."""
        file, byte = opened.file.name, opened.start
        last = self._places[-1] if self._places else None
        if last is not None and last.file == file and byte < last.byte + _SPACING:
            return
        size = opened.stat().st_size
        head = opened.excerpt(0, min(_EXCERPT, size if opened.zipped else byte))
        tail = (size, 0) if opened.zipped else opened.excerpt(max(0, byte - 64), byte)
        self._places.append(_Place(self.line, file, byte, self._next - 1, head, tail))

    def _look_again(self) -> None:
        """Finds later files, and that the one being followed is still the same."""
        known = {file.name for file in self._files}
        last = self._files[-1].name if self._files else ""
        for file in _listed(self._path):
            if file.name not in known:
                if file.name < last:
                    raise ConfigError(f"{file} comes before {last}, which has been read: give it a later name")
                self._files.append(file)
        if self._open is not None:
            file, now = self._open.file, self._open.stat()
            if not self._open.zipped and now.st_size < self._open.byte:
                raise ConfigError(f"{file} was cut while it was followed: append to it, and never rewrite it")
            with suppress(FileNotFoundError):
                there = file.stat()
                if (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
                    raise ConfigError(f"{file} was replaced while it was followed: give the new one a later name")


def _listed(path: Path) -> list[Path]:
    """The file, or those of a directory in name order."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [path]
        found = [each for each in path.iterdir() if each.name.endswith(ENDINGS) and each.name[0] != "."]
        return sorted((each for each in found if each.is_file()), key=lambda each: each.name)
    except OSError as error:
        raise _unreadable(path, error) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"{path} is not there: check the path of the input")
    if isinstance(error, gzip.BadGzipFile | EOFError | zlib.error):
        return ConfigError(f"{path} is damaged, or no complete gzip file ({error})")
    return ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


class JsonLinesOutput:
    """A file that gets one line per value, and whose length is committed with what it holds.

    open --> append, append, ... --> sync --> (commit of the length) --> append ...

    What is behind the committed length was written by a run that died before its commit, and is cut off by
    `open`. A device or named pipe is written to and never cut.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file = -1
        self._regular = True
        self._length = 0

    def open(self, committed_length: int | None) -> None:
        """Begins behind the committed length, in bytes; None if nothing was ever committed.

        Raises StateError where the file is shorter than that or no longer ends a line there, and ConfigError
        where it has lines nothing is known of, is written by another process, or cannot be written.
        """
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            found = os.fstat(self._file)
            self._regular = stat.S_ISREG(found.st_mode)
            if self._regular:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._cut_to(committed_length, found.st_size)
        except BlockingIOError:
            self.close()
            raise ConfigError(f"{self._path} is being written by another process: name another output") from None
        except OSError as error:
            self.close()
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def append(self, values: Iterable[bytes | None]) -> None:
        """Writes each value and a newline; None, a tombstone, as `null`.

        Raises ValueError, before anything is written, for a value with a newline in it, and StateError if the
        disk is full; what is behind the committed length is then of no account.
        """
        lines = _joined(values)
        try:
            _write(self._file, lines)
        except OSError as error:
            if self._regular:
                with suppress(OSError):
                    os.ftruncate(self._file, self._length)
                    os.lseek(self._file, self._length, os.SEEK_SET)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StateError(f"the disk is full: {self._path} has all lines that were committed") from error
            raise
        self._length += len(lines)

    def sync(self) -> int:
        """Puts everything on the disk and returns the length to be committed, in bytes."""
        if self._regular:
            os.fsync(self._file)
        return self._length

    def close(self) -> None:
        """Gives the file free; harmless when done twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _cut_to(self, committed: int | None, size: int) -> None:
        if committed is None:
            if size:
                raise ConfigError(
                    f"{self._path} already has lines, and no state says which of them are this run's: "
                    "remove it, name another output, or the state file it was written with"
                )
            committed = 0
        if size < committed:
            raise StateError(
                f"{self._path} has {size} bytes, and {committed} were committed: put the file back, or "
                "begin with another state file"
            )
        if committed and os.pread(self._file, 1, committed - 1) != b"\n":
            raise StateError(
                f"{self._path} is not the file that was written: put that back, or begin with another state file"
            )
        os.ftruncate(self._file, committed)
        self._length = os.lseek(self._file, committed, os.SEEK_SET)


class StdoutOutput:
    """Standard output as an output: a line per value, at once, and never taken back.

    BrokenPipeError, raised when the reader has gone, is left to the caller.
    """

    def __init__(self, file: int = 1) -> None:
        self._file = file
        self._length = 0

    def open(self, committed_length: int | None) -> None:
        """Begins; what an earlier run has written is elsewhere."""

    def append(self, values: Iterable[bytes | None]) -> None:
        """Writes each value and a newline; None, a tombstone, as `null`.  Raises ValueError as files do."""
        lines = _joined(values)
        _write(self._file, lines)
        self._length += len(lines)

    def sync(self) -> int:
        """How many bytes have been written since the start."""
        return self._length

    def close(self) -> None:
        """Standard output is not ours."""


def _joined(values: Iterable[bytes | None]) -> bytes:
    lines = [b"null" if value is None else value for value in values]
    joined = b"\n".join((*lines, b""))
    if joined.count(b"\n") != len(lines):
        raise ValueError("a value with a newline in it is no JSON line: write compact JSON")
    return joined


def _write(file: int, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        rest = rest[os.write(file, rest) :]
