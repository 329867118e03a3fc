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
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Implements `ports.Source` over a file, a gzip file, a directory of them in name order, or standard
    input (`-`).

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

    def __init__(
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
            self._lines = _Files(self._path, self._follow, self._max_line, bookmark)

    def read(self, limit: int) -> list[Run]:
        """Up to `limit` lines that are at hand now, as runs by partition, without waiting."""
        lines = self._opened()
        while True:
            if not self._pending:
                first = lines.line
                found = lines.more()
                if not found:
                    self._ended = found is None
                    return []
                past = max(0, self._skip_to - first)
                self._first, self._pending = first + past, found[past:]
            first, taken = self._first, self._pending[:limit]
            self._first += len(taken)
            self._pending = self._pending[limit:]
            runs = self._spread(first, taken) if self._key_field is None else self._keyed(first, taken)
            if runs:
                return runs

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

    def _keyed(self, first: int, lines: list[bytes]) -> list[Run]:
        """Each line to the partition of its key, or of its number if it has none."""
        found: dict[int, tuple[list[int], list[bytes | None], list[bytes | None]]] = {}
        for offset, line in enumerate(lines, first):
            if not line:
                continue
            key = self._key(line)
            partition = (
                offset % self._partitions if key is None else self._partition_of(key, self._partitions)
            )
            offsets, values, keys = found.setdefault(partition, ([], [], []))
            offsets.append(offset)
            values.append(line)
            keys.append(key)
        return [Run(partition, *parts) for partition, parts in found.items()]

    def _key(self, line: bytes) -> bytes | None:
        assert self._key_field is not None
        try:
            value = self._field_of(line, self._key_field)
            return None if value is None else self._encode_key(value)
        except (ValueError, TypeError):
            return None


class _Cutter:
    """Chunks to lines; what follows the last newline is held for the next chunk."""

    __slots__ = ("_fresh", "_held", "_most", "size")

    def __init__(self, most: int, *, fresh: bool = True) -> None:
        self._most = most
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
        if max(len(whole), self.size) > self._most:
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
        if self.size > self._most:
            self._held = [b"".join(self._held)[: _EXCERPT + 1]]

    def _bounded(self, line: bytes, size: int | None = None) -> bytes:
        if (len(line) if size is None else size) <= self._most:
            return line
        return line[:_EXCERPT] + b"\0 cut: a line longer than %d bytes" % self._most


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


class _Files:
    """Files one after the other, with places to come back to."""

    def __init__(self, path: Path, follow: bool, max_line: int, bookmark: Mapping[str, Any] | None) -> None:
        self._path = path
        self._follow = follow
        self._max_line = max_line
        self._files = _listed(path)
        if not self._files and not follow:
            raise ConfigError(f"{path} holds no file to read: their names end with {', '.join(ENDINGS)}")
        self._next = 0
        self._raw: BinaryIO | None = None
        self._text: BinaryIO | None = None
        self._byte = 0
        self._cutter = _Cutter(max_line)
        self._places: list[_Place] = []
        self._before = 0
        self.sizes: dict[str, int] = {}
        self.line = 0
        if bookmark is not None and "file" in bookmark:
            try:
                self._return_to(_Place(**{name: bookmark[name] for name in _Place._fields}))
            except ConfigError:
                self.close()
                raise

    @property
    def position(self) -> int:
        return self._before + (self._raw.tell() if self._raw is not None else 0)

    def more(self) -> list[bytes] | None:
        checked = False
        while True:
            if self._text is None:
                if self._next >= len(self._files) and self._follow:
                    self._look_again()
                if self._next >= len(self._files):
                    return [] if self._follow else None
                self._start(self._files[self._next])
            self._note()
            chunk = self._chunk()
            if chunk:
                lines = self._cutter.cut(chunk)
            elif self._follow and not checked:
                self._look_again()
                checked = self._next < len(self._files)
                if not checked:
                    return []
                continue  # a later file is there, so this one is complete: but perhaps only since just now
            else:
                checked = False
                lines = self._cutter.rest()
                self._finish()
            if lines:
                self.line += len(lines)
                return lines

    def place(self, offset: int) -> dict[str, Any]:
        """The last noted place at or before a line, and that line."""
        if self._text is None and self._next < len(self._files) and not self._places:
            self._start(self._files[self._next])
        if self._text is not None:
            self._note()
        found = bisect_right(self._places, offset, key=lambda place: place.line)
        if found == 0:
            return {"offset": offset}
        return {"offset": offset, **self._places[found - 1]._asdict()}

    def close(self) -> None:
        if self._text is not None:
            self._finish()

    def _start(self, file: Path) -> None:
        """Opens a file at its beginning."""
        try:
            self._raw = open(file, "rb", buffering=0)  # noqa: SIM115 - closed by _finish
            zipped = file.name.endswith(".gz")
            self._text = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if zipped else self._raw
        except OSError as error:
            raise _unreadable(file, error) from error
        self._next += 1
        self._byte = 0
        self._cutter = _Cutter(self._max_line)

    def _finish(self) -> None:
        assert self._raw is not None
        assert self._text is not None
        self.sizes[self._files[self._next - 1].name] = size = self._raw.tell()
        self._before += size
        self._text.close()
        self._raw.close()
        self._raw = self._text = None

    def _chunk(self) -> bytes:
        assert self._text is not None
        file = self._files[self._next - 1]
        try:
            chunk = self._text.read(_CHUNK)
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(file, error) from error
        self._byte += len(chunk)
        return chunk

    def _note(self) -> None:
        """Remembers where the next line starts, at the start of each file and then each 64 KiB or so."""
        assert self._raw is not None
        file, byte = self._files[self._next - 1].name, self._byte - self._cutter.size
        last = self._places[-1] if self._places else None
        if last is not None and last.file == file and byte < last.byte + _SPACING:
            return
        if self._text is self._raw:
            head, tail = (
                _excerpt(self._raw, 0, min(_EXCERPT, byte)),
                _excerpt(self._raw, max(0, byte - 64), byte),
            )
        else:
            size = _stat(self._raw).st_size
            head, tail = _excerpt(self._raw, 0, min(_EXCERPT, size)), (size, 0)
        self._places.append(_Place(self.line, file, byte, self._next - 1, head, tail))

    def _return_to(self, place: _Place) -> None:
        """Goes on where an earlier run stopped, if that place is still the same."""
        names = [file.name for file in self._files]
        if self._path.is_dir():
            if place.file not in names:
                raise ConfigError(
                    f"{self._path / place.file} is gone, and has not been read to its end: put it back"
                )
            self._next = names.index(place.file)
            if self._next > place.before:
                raise ConfigError(
                    f"{self._path} has new files that come before {place.file}, which is being read: "
                    "give them later names"
                )
        file = self._files[self._next]
        self._start(file)
        assert self._raw is not None
        assert self._text is not None
        plain = self._text is self._raw
        if _stat(self._raw).st_size < (place.byte if plain else place.tail[0]):
            raise ConfigError(
                f"{file} is shorter than what was read of it: put it back, or begin with another state file"
            )
        same = _excerpt(self._raw, 0, place.head[0]) == tuple(place.head)
        if plain:
            same = same and _excerpt(self._raw, place.byte - place.tail[0], place.byte) == tuple(place.tail)
        if not same:
            raise ConfigError(
                f"{file} is not the file that was read: put that back, or begin with another state file"
            )
        try:
            self._byte = self._text.seek(place.byte)
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(file, error) from error
        self._cutter = _Cutter(self._max_line, fresh=place.byte == 0)
        self._before = sum(_size(each) for each in self._files[: self._next - 1])
        self.line = place.line

    def _look_again(self) -> None:
        """Finds later files, and that the one being followed is still the same."""
        files = _listed(self._path)
        known = {file.name for file in self._files}
        last = self._files[-1].name if self._files else ""
        for file in files:
            if file.name not in known:
                if file.name < last:
                    raise ConfigError(
                        f"{file} comes before {last}, which has been read: give it a later name"
                    )
                self._files.append(file)
        if self._raw is not None:
            file, opened = self._files[self._next - 1], _stat(self._raw)
            if self._text is self._raw and opened.st_size < self._byte:
                raise ConfigError(f"{file} was cut while it was followed: append to it, and never rewrite it")
            with suppress(FileNotFoundError):
                there = file.stat()
                if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
                    raise ConfigError(
                        f"{file} was replaced while it was followed: give the new one a later name"
                    )


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


def _stat(file: BinaryIO) -> os.stat_result:
    return os.fstat(file.fileno())


def _excerpt(file: BinaryIO, start: int, end: int) -> tuple[int, int]:
    """Length and checksum of some bytes of a file."""
    return end - start, zlib.crc32(os.pread(file.fileno(), end - start, start))


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
            raise ConfigError(
                f"{self._path} is being written by another process: name another output"
            ) from None
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
                raise StateError(
                    f"the disk is full: {self._path} has all lines that were committed"
                ) from error
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
                f"{self._path} is not the file that was written: put that back, or begin with another "
                "state file"
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
