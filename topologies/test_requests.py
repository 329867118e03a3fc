"""Lines of a web server's log, and what is made of them."""

import pytest

from streamproc import WindowResult
from streamproc.testing import TestDriver, at, verify
from topologies.requests import Hour, Request, topology


def line(time: str, status: int = 200, method: str = "GET", size: int = 1000) -> Request:
    """A line of the log."""
    return Request(at(time), method, status, size)


def test_requests_per_status_and_minute() -> None:
    """A minute is counted when the next one has passed, in whatever order its lines came."""
    with TestDriver(topology) as t:
        t.send("requests", line("12:05:50"), line("12:05:10"), line("12:05:30", 404), line("12:06:01"))
        t.send("requests", line("12:06:59"))
        assert t.read("requests-per-status") == []
        t.send("requests", line("12:07:00"))
        assert t.read("requests-per-status") == [
            WindowResult(200, at("12:05"), at("12:06"), 2),
            WindowResult(404, at("12:05"), at("12:06"), 1),
        ]


def test_the_share_that_failed() -> None:
    """Each hour of a method has its requests, the shares of 4xx and 5xx, and the bytes that were sent."""
    with TestDriver(topology) as t:
        t.send("requests", line("12:05:10"), line("12:05:20", 404, size=0), line("12:05:00", 500, size=20))
        t.send("requests", line("12:59:59", 499, size=10), line("12:05:00", 200, "HEAD", 0))
        t.end()
        assert t.read("requests-per-hour") == [
            Hour("GET", at("13:00"), requests=4, client_errors=0.5, server_errors=0.25, bytes_sent=1030),
            Hour("HEAD", at("13:00"), requests=1, client_errors=0.0, server_errors=0.0, bytes_sent=0),
        ]


def test_a_line_that_is_no_request() -> None:
    """It is kept byte for byte, with the reason, and the others are counted all the same."""
    with TestDriver(topology) as t:
        t.send("requests", line("12:05:10"), b'{"time":"yesterday"}', line("12:05:20"))
        t.end()
        assert t.read("broken-requests") == [b'{"time":"yesterday"}']
        assert [letter.reason for letter in t.dead_letters()] == ["deserialization_error"]
        assert t.read("requests-per-status") == [WindowResult(200, at("12:05"), at("12:06"), 2)]


@pytest.mark.parametrize("partitions", [1, 3])
def test_it_is_the_same_however_it_runs(partitions: int) -> None:
    """All at once, one by one, with crashes, on one partition or three: nobody can tell."""
    lines = [line("12:05:50"), line("12:05:10", 404), line("12:06:30", 500, "POST"), b"{", line("12:06:10")]
    verify(
        topology,
        partitions=partitions,
        given={"requests": lines},
        expect={
            "broken-requests": [b"{"],
            "requests-per-hour": [
                Hour("GET", at("13:00"), 3, 1 / 3, 0.0, 3000),
                Hour("POST", at("13:00"), 1, 0.0, 1.0, 1000),
            ],
            "requests-per-status": [
                WindowResult(200, at("12:05"), at("12:06"), 1),
                WindowResult(404, at("12:05"), at("12:06"), 1),
                WindowResult(200, at("12:06"), at("12:07"), 1),
                WindowResult(500, at("12:06"), at("12:07"), 1),
            ],
        },
    )
