"""What workers say of themselves: their health, and where their partitions stand, asked over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from streamproc.core.errors import ConfigError, StreamprocError

SECONDS = 3.0
"""How long a worker may take to answer; less than a container's health check may."""


class Answer(NamedTuple):
    """What came of a request: the status and the body, as data if it is JSON."""

    status: int
    body: Any


def address(text: str) -> str:
    """host:port of what was given; ConfigError if it is none.  A scheme in front is passed over."""
    found = text.split("://", 1)[-1].rstrip("/")
    parts = urlsplit(f"//{found}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None or parts.path:
        raise ConfigError(f"--at {text}: use HOST:PORT")
    return found


def get(at: str, path: str) -> Answer:
    """A page of a worker; StreamprocError where nobody answers."""
    parts = urlsplit(f"//{at}")
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        raw = response.read()
    except (OSError, HTTPException) as error:
        raise StreamprocError(f"no worker answers at {at}: {error}") from error
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(raw))
    except ValueError:
        return Answer(response.status, None)


def workers(at: str) -> list[str]:
    """The workers that a supervisor lists at this address; the address itself where there is none."""
    answer = get(at, "/sd")
    if answer.status != 200 or not isinstance(answer.body, list):  # noqa: PLR2004 - HTTP's own number
        return [at]
    return [each for group in answer.body for each in group["targets"]]


def status(addresses: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each worker: its health, and its partitions; for one that does not answer, why."""
    for at in addresses:
        try:
            found = workers(at)
        except StreamprocError as error:
            yield {"worker": at, "live": False, "ready": False, "error": str(error)}
            continue
        for worker in found:
            yield _row(worker)


def _row(at: str) -> dict[str, Any]:
    try:
        live, ready, lag = get(at, "/healthz"), get(at, "/readyz"), get(at, "/lag")
    except StreamprocError as error:
        return {"worker": at, "live": False, "ready": False, "error": str(error)}
    partitions = lag.body.get("partitions", []) if isinstance(lag.body, dict) else []
    return {
        "worker": at,
        "live": live.status == 200,  # noqa: PLR2004 - HTTP's own number
        "ready": ready.status == 200,  # noqa: PLR2004 - the same
        "checks": {
            check["name"]: check["value"]
            for answer in (live, ready)
            if isinstance(answer.body, dict)
            for check in answer.body.get("checks", [])
        },
        "partitions": partitions,
    }


def text(row: dict[str, Any]) -> Iterator[str]:
    """A row for people."""
    if "error" in row:
        yield f"{row['worker']}  down  {row['error']}"
        return
    state = row["checks"].get("state", "?")
    partitions = row["partitions"]
    lag = sum(each["lag_records"] for each in partitions)
    health = "" if row["live"] else "  not live"
    yield f"{row['worker']}  {state}{health}  {len(partitions)} partitions, lag {lag:,}"
    for each in partitions:
        marks = [word for word in ("paused", "idle", "stalled", "holds") if each[word]]
        late = f"  {each['lag_seconds']:.1f} s" if each["lag_seconds"] else ""
        yield (
            f"  {each['topic']}/{each['partition']}  at {each['position']} of {_known(each['end'])}"
            f"{late}{'  ' if marks else ''}{' '.join(marks)}"
        )


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def healthy(at: str, *, ready: bool) -> tuple[bool, str]:
    """Whether a worker is well, and in words what is not."""
    path = "/readyz" if ready else "/healthz"
    try:
        answer = get(at, path)
    except StreamprocError as error:
        return False, str(error)
    if answer.status == 200:  # noqa: PLR2004 - HTTP's own number
        return True, "ok"
    checks = answer.body.get("checks", []) if isinstance(answer.body, dict) else []
    wrong = ", ".join(f"{check['name']} {check['value']}" for check in checks if not check["ok"])
    return False, f"{at}{path} answers {answer.status}{': ' if wrong else ''}{wrong}"
