"""What is logged, how it looks, how often, and what is never in it."""

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

from streamproc.adapters.logs import EVENTS, LogObserver, configure, redact
from streamproc.core.batch import Counts, DeadLetter, Step
from streamproc.core.errors import ConfigError
from streamproc.ports import Commit, Observer
from streamproc.ports.worker import Ownership, Reachability, Restored, Restoring, Standing, Uncommitted
from tests.observability.plans import PLAN, busy_step, full_commit, letter

CANARY = "c4n4ry"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging and structlog are as they were when the test is over."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("aiokafka", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


@dataclass
class Desk:
    """A log observer with a clock that stands still until it is set, and all that it logged."""

    stream: io.StringIO
    now: float = 0.0
    counted: list[str] = field(default_factory=list)
    observer: LogObserver = field(init=False)

    def __post_init__(self) -> None:
        self.observer = LogObserver(lambda: self.now, self.counted.append)

    def lines(self) -> list[dict[str, Any]]:
        """What was logged since it was last asked."""
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return [json.loads(line) for line in text.splitlines()]

    def events(self) -> list[str]:
        """The names of what was logged since it was last asked."""
        return [line["event"] for line in self.lines()]

    def fail(self, at: float, offset: int, node: str = "per_user") -> None:
        """A step in which one record fails."""
        self.now = at
        dead = letter(offset, node)
        counts = Counts(errors={(node, "processing_error", "dead_letter"): 1})
        self.observer.stepped("clicks-1", Step(dead=[dead], counts=counts), 1, 0.001)


@pytest.fixture
def desk() -> Desk:
    """A desk whose log is JSON."""
    stream = io.StringIO()
    configure("info", "json", stream)
    return Desk(stream)


def refuse(text: str) -> None:
    """Raises."""
    raise ValueError(text)


def only(stream: io.StringIO) -> dict[str, Any]:
    """The one line of a JSON log."""
    (line,) = stream.getvalue().splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line_is_one_json_object_with_its_context() -> None:
    """Instant in UTC with ms, level and event come first, then topology and worker, then the fields."""
    stream = io.StringIO()
    configure("info", "json", stream, {"topology": "orders", "worker": "w1"})
    structlog.get_logger().info("plan_built", text="two\nlines", nothing=None, odd=float("nan"))
    line = only(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert list(line.items()) == [
        ("level", "info"),
        ("event", "plan_built"),
        ("topology", "orders"),
        ("worker", "w1"),
        ("text", "two\nlines"),
        ("nothing", None),
        ("odd", "nan"),
    ]


def test_a_line_of_a_library_passes_the_same_processors() -> None:
    """What asyncio or aiohttp log becomes the event `library`, with its text as message."""
    stream = io.StringIO()
    configure("info", "json", stream, {"topology": "orders"})
    logging.getLogger("aiohttp.server").warning("slow %s", "client")
    line = only(stream)
    del line["ts"]
    assert line == {
        "level": "warning",
        "event": "library",
        "topology": "orders",
        "message": "slow client",
        "logger": "aiohttp.server",
    }


@pytest.mark.parametrize(("name", "event"), [("worker", "worker_note"), ("supervisor", "supervisor_note")])
def test_what_a_worker_notes_is_no_line_of_a_library(name: str, event: str) -> None:
    """What is said of the group and of other processes has names of its own."""
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger(f"streamproc.{name}").info("generation %d", 5)
    line = only(stream)
    assert (line["event"], line["message"]) == (event, "generation 5")


@pytest.mark.parametrize("name", ["structlog", "stdlib"])
def test_an_exception_is_three_fields(name: str) -> None:
    """Type, message and stack stand in fields of their own, on the one line."""
    stream = io.StringIO()
    configure("info", "json", stream)
    log: Any = structlog.get_logger() if name == "structlog" else logging.getLogger("asyncio")
    try:
        refuse("no")
    except ValueError:
        log.exception("stopped")
    line = only(stream)
    assert (line["level"], line["error.type"], line["error.message"]) == ("error", "ValueError", "no")
    assert line["error.stack"].startswith("Traceback")
    assert "exc_info" not in line


def test_the_level_is_a_floor_for_all() -> None:
    """Below the level nothing is logged, and nothing is counted."""
    stream, counted = io.StringIO(), list[str]()
    configure("warning", "json", stream, counted=counted.append)
    structlog.get_logger().info("draining")
    logging.getLogger("asyncio").info("quiet")
    structlog.get_logger().warning("draining")
    logging.getLogger("asyncio").error("loud")
    assert len(stream.getvalue().splitlines()) == 2
    assert counted == ["warning", "error"]


def test_clients_are_not_heard_at_debug() -> None:
    """A Kafka client prints its requests at DEBUG, passwords included: it is heard from INFO on."""
    stream = io.StringIO()
    configure("debug", "json", stream)
    logging.getLogger("aiokafka.conn").debug("request")
    assert stream.getvalue() == ""
    configure("error", "json", stream)
    logging.getLogger("aiokafka.conn").info("joined")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("form", "stream", "no_colour", "expected"),
    [
        ("auto", io.StringIO(), None, "json"),
        ("auto", Terminal(), None, "coloured"),
        ("auto", Terminal(), "1", "plain"),
        ("json", Terminal(), None, "json"),
        ("pretty", io.StringIO(), None, "plain"),
        ("pretty", Terminal(), None, "coloured"),
        ("pretty", Terminal(), "", "coloured"),
    ],
)
def test_the_format_follows_the_terminal(
    monkeypatch: pytest.MonkeyPatch, form: Any, stream: io.StringIO, no_colour: str | None, expected: str
) -> None:
    """Auto is pretty on a terminal and JSON elsewhere; colours need a terminal and no NO_COLOR."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour is not None:
        monkeypatch.setenv("NO_COLOR", no_colour)
    configure("info", form, stream)
    structlog.get_logger().info("draining", node="a")
    text = stream.getvalue()
    look = "json" if text.startswith("{") else "coloured" if "\x1b[" in text else "plain"
    assert look == expected
    assert "draining" in text


def test_people_read_a_stack_below_its_event() -> None:
    """Pretty lines show the stack as lines, not as an escaped field."""
    stream = io.StringIO()
    configure("info", "pretty", stream)
    try:
        refuse("no")
    except ValueError:
        structlog.get_logger().exception("stopped")
    assert "\nTraceback (most recent call last):\n" in stream.getvalue()


def test_an_unknown_setting_is_an_error_that_names_it() -> None:
    """A wrong level or format names the variable and what it may be."""
    with pytest.raises(ConfigError, match="STREAMPROC_LOG__LEVEL to one of debug, info"):
        configure("loud", "json")
    with pytest.raises(ConfigError, match="STREAMPROC_LOG__FORMAT to auto, json or pretty"):
        configure("info", "xml")  # type: ignore[arg-type]


SECRETS: list[Any] = [
    {"password": CANARY},
    {"sasl_plain_password": CANARY},
    {"SASL_USERNAME": CANARY},
    {"http_token": CANARY},
    {"client.secret": CANARY.encode()},
    {"config": {"kafka": [{"Password": CANARY}]}},
    {"config": ({"api_key": {"deep": CANARY}},)},
    {"request": f"SaslAuthenticateRequest_v1(sasl_auth_bytes=b'\\x00user\\x00{CANARY}')"},
    {"text": f"password={CANARY}, host=a"},
    {"text": f'{{"sasl_plain_password": "{CANARY} {CANARY}"}}'},
    {"text": f"Authorization: Bearer {CANARY}"},
    {"text": f"connecting to kafka://user:{CANARY}@broker:9092/x"},
    {"error": ValueError(f"token: {CANARY}")},
]


@pytest.mark.parametrize("form", ["json", "pretty"])
@pytest.mark.parametrize("secret", SECRETS, ids=str)
def test_a_secret_is_never_printed(form: Any, secret: dict[str, Any]) -> None:
    """A secret under a telling name, at any depth, or within a text, is cut out; so it is in both formats."""
    stream = io.StringIO()
    configure("info", form, stream, {"broker_password": CANARY})
    structlog.get_logger().info("worker_started", **secret)
    logging.getLogger("aiokafka").info("%s", secret)
    try:
        refuse(f"password='{CANARY}'")
    except ValueError:
        structlog.get_logger().exception("stopped")
    assert CANARY not in stream.getvalue()
    assert "[redacted]" in stream.getvalue()


def test_what_is_no_secret_stays() -> None:
    """Redaction leaves ordinary fields as they are."""
    plain = {
        "node": "per_user",
        "offset": 7,
        "ok": True,
        "ratio": 0.5,
        "url": "http://127.0.0.1:9400/metrics",
    }
    assert redact(plain) == plain


def test_redaction_is_linear() -> None:
    """A long text of word characters, or of telling words, is redacted without backtracking over itself."""
    assert redact("x" * 1_000_000) == "x" * 1_000_000
    assert redact("token" * 20_000) == "token" * 20_000


def test_the_observer_is_one(desk: Desk) -> None:
    """The class satisfies the protocol of observers."""
    observer: Observer = desk.observer
    assert observer is not None


def test_a_worker_logs_its_life(desk: Desk) -> None:
    """Start, plan, draining and stop are one line each; the plan's hash is on every line behind it."""
    desk.observer.state("starting")
    desk.observer.planned(PLAN)
    for state in ("restoring", "running", "draining", "stopped"):
        desk.observer.state(state)
    started, built, draining, stopped = desk.lines()
    assert started["event"] == "worker_started"
    del built["ts"]
    assert built == {
        "level": "info",
        "event": "plan_built",
        "plan": "c0ffee",
        "nodes": 3,
        "sources": ["clicks"],
        "sinks": ["totals"],
        "dead_letters": ["poison"],
        "partitions": 2,
    }
    assert (draining["event"], draining["plan"]) == ("draining", "c0ffee")
    assert (stopped["event"], stopped["level"], stopped["state"]) == ("stopped", "info", "stopped")


def test_a_failed_worker_stops_with_an_error(desk: Desk) -> None:
    """The end of a worker that failed is an error."""
    desk.observer.state("failed")
    (line,) = desk.lines()
    assert (line["event"], line["level"], line["state"]) == ("stopped", "error", "failed")


def test_steady_state_is_silent(desk: Desk) -> None:
    """An hour of steps, commits and progress in which nothing is wrong logs nothing."""
    for minute in range(60):
        desk.now = minute * 60.0
        desk.observer.read("clicks", 0, 10, 100, 10)
        desk.observer.stepped("clicks-0", Step(counts=Counts(records_in={"per_user": 10})), 10, 0.001)
        desk.observer.committed(full_commit(), [], 0.001)
        desk.observer.progressed({("clicks", 0): minute, ("clicks", 1): minute + 1}, ("clicks", 0))
        desk.observer.counted("clicks-0", {"per_user": 1}, {})
    assert desk.events() == []


def test_a_held_watermark_names_who_holds_it_and_for_how_long(desk: Desk) -> None:
    """From a minute on there is a line a minute, and none once the partition moves again."""

    def progress(at: float, slow: int) -> list[tuple[str, int, float]]:
        desk.now = at
        desk.observer.progressed({("clicks", 0): 9000 + int(at), ("clicks", 1): slow}, ("clicks", 1))
        return [(line["topic"], line["partition"], line["held_seconds"]) for line in desk.lines()]

    at = {second: progress(second, 500) for second in (10.0, 69.0, 70.0, 71.0, 129.0, 130.5)}
    assert at == {
        10.0: [],
        69.0: [],
        70.0: [("clicks", 1, 60.0)],
        71.0: [],
        129.0: [],
        130.5: [("clicks", 1, 120.5)],
    }
    assert progress(200.0, 501) == []
    assert progress(250.0, 501) == []
    assert progress(260.0, 501) == [("clicks", 1, 60.0)]


def test_a_quiet_input_holds_nothing(desk: Desk) -> None:
    """Where no partition is ahead, or none is named, nothing is held."""
    for second in (0.0, 100.0, 200.0):
        desk.now = second
        desk.observer.progressed({("clicks", 0): 500, ("clicks", 1): 500}, ("clicks", 1))
        desk.observer.progressed({("clicks", 0): 900, ("clicks", 1): 500}, None)
    assert desk.events() == []


def test_a_failure_names_its_record_and_prints_nothing_of_it(desk: Desk) -> None:
    """Node, reason, action, type of error and place are logged; key, value and message are not."""
    desk.fail(0.0, 7)
    desk.observer.committed(Commit(), [letter(7)], 0.001)
    text = desk.stream.getvalue()
    failed, dead = desk.lines()
    del failed["ts"], dead["ts"]
    assert failed == {
        "level": "warning",
        "event": "record_failed",
        "node": "per_user",
        "reason": "processing_error",
        "action": "dead_letter",
        "records": 1,
        "topic": "clicks",
        "partition": 1,
        "offset": 7,
        "error.type": "KeyError",
    }
    assert dead == {
        "level": "warning",
        "event": "dead_lettered",
        "node": "per_user",
        "to": "poison",
        "reason": "processing_error",
        "stage": "process",
        "topic": "clicks",
        "partition": 1,
        "offset": 7,
    }
    assert "canary" not in text


def test_details_are_asked_for() -> None:
    """The text of an error, which may quote a record, is logged on request only, and redacted."""
    stream = io.StringIO()
    configure("info", "json", stream)
    observer = LogObserver(lambda: 0.0, details=True)
    dead: DeadLetter = letter(message=f"password={CANARY} is no number", stacktrace="Traceback: ...")
    counts = Counts(errors={("per_user", "processing_error", "dead_letter"): 1})
    observer.stepped("clicks-1", Step(dead=[dead], counts=counts), 1, 0.001)
    line = only(stream)
    assert line["error.message"] == "password=[redacted] is no number"
    assert line["error.stack"] == "Traceback: ..."


def test_failures_are_limited_to_a_line_a_minute(desk: Desk) -> None:
    """The first is logged at once; each minute closes with the last one and how many were left out."""
    seen = {}
    for second in (0.0, 1.0, 59.0, 60.0, 61.0, 119.0, 120.0):
        desk.fail(second, int(second))
        seen[second] = [(line["offset"], line.get("suppressed")) for line in desk.lines()]
    assert seen == {
        0.0: [(0, None)],
        1.0: [],
        59.0: [],
        60.0: [(59, 2)],
        61.0: [],
        119.0: [],
        120.0: [(119, 3)],
    }
    assert desk.counted == ["warning"] * 6


def test_a_minute_is_closed_by_any_sign_of_life(desk: Desk) -> None:
    """The closing line waits for no other failure; behind a minute of silence a failure is logged at once."""
    desk.fail(0.0, 1)
    desk.fail(1.0, 2)
    desk.lines()
    desk.now = 60.0
    desk.observer.progressed({}, None)
    assert [(line["offset"], line["suppressed"]) for line in desk.lines()] == [(2, 1)]
    desk.now = 120.0
    desk.observer.committed(Commit(), [], 0.001)
    assert desk.lines() == []
    desk.fail(121.0, 3)
    assert [line["offset"] for line in desk.lines()] == [3]


def test_each_node_has_a_limit_of_its_own(desk: Desk) -> None:
    """A node that fails does not hide another, and failing does not hide dead letters."""
    desk.fail(0.0, 1)
    desk.fail(0.0, 2, node="to_totals")
    desk.fail(0.0, 3)
    desk.observer.committed(Commit(), [letter(1), letter(3)], 0.001)
    assert [(line["event"], line["node"], line["offset"]) for line in desk.lines()] == [
        ("record_failed", "per_user", 1),
        ("record_failed", "to_totals", 2),
        ("dead_lettered", "per_user", 1),
    ]


def test_stopping_closes_every_summary(desk: Desk) -> None:
    """Nothing that was left out, and no late record, is forgotten when a worker stops."""
    desk.fail(0.0, 1)
    desk.fail(0.0, 2)
    desk.observer.stepped("clicks-0", Step(counts=Counts(late={("per_user", "skip"): 4})), 9, 0.001)
    desk.lines()
    desk.observer.state("stopped")
    failed, late, stopped = desk.lines()
    assert (failed["event"], failed["suppressed"]) == ("record_failed", 1)
    assert (late["event"], late["records"]) == ("late_summary", 4)
    assert stopped["event"] == "stopped"


def test_late_records_are_summed_up_once_a_minute(desk: Desk) -> None:
    """A minute after the first late record there is one line for all nodes, and none for a minute without."""

    def step(at: float, late: dict[tuple[str, str], int]) -> list[tuple[int, dict[str, int]]]:
        desk.now = at
        desk.observer.stepped("clicks-0", Step(counts=Counts(late=late)), 9, 0.001)
        return [(line["records"], line["nodes"]) for line in desk.lines()]

    assert step(0.0, {("per_user", "skip"): 3}) == []
    assert step(59.0, {("per_user", "dead_letter"): 1, ("joined", "skip"): 2}) == []
    assert step(60.0, {}) == [(6, {"per_user": 4, "joined": 2})]
    assert step(500.0, {}) == []
    assert step(501.0, {("per_user", "skip"): 1}) == []
    assert step(561.0, {}) == [(1, {"per_user": 1})]


def test_every_event_is_in_the_closed_list(desk: Desk) -> None:
    """Whatever the observer logs has a name of the list, and it has no name it never uses."""
    desk.observer.state("starting")
    desk.observer.planned(PLAN)
    desk.observer.stepped("clicks-0", busy_step(), 10, 0.001)
    desk.observer.committed(full_commit(), [letter()], 0.001)
    for second in (0.0, 60.0):
        desk.now = second
        desk.observer.progressed({("clicks", 0): 9, ("clicks", 1): 5}, ("clicks", 1))
    desk.observer.happened(Ownership("assigned", ["clicks/0"], {"clicks": [0]}))
    desk.observer.happened(Restoring("clicks/0", 0, 100))
    desk.observer.lagged({("clicks", 0): Standing(5, 9, 200.0, stalled=True)})
    desk.now = 120.0
    desk.observer.happened(Restoring("clicks/0", 40, 60))
    desk.observer.happened(Restored("clicks/0", 100, 80.0))
    desk.observer.happened(Uncommitted("clicks/0", "aborted", 1.0, "timed out"))
    desk.observer.happened(Uncommitted("clicks/0", "fenced", 1.0, "another has it"))
    desk.observer.happened(Ownership("revoked", ["clicks/0"], {}))
    desk.observer.happened(Ownership("lost", ["clicks/1"], {}))
    desk.observer.happened(Reachability(reachable=False))
    desk.observer.happened(Reachability(reachable=True))
    desk.observer.state("draining")
    desk.observer.state("stopped")
    for name in ("asyncio", "streamproc.worker", "streamproc.supervisor"):
        logging.getLogger(name).warning("slow")
    assert set(desk.events()) == EVENTS - {"stalled", "stacks"}, "those are the watchdog's"


def test_a_rebalance_is_a_line_with_what_came_and_what_is_owned(desk: Desk) -> None:
    """Tasks that came or went, and how many partitions of each topic are owned; nothing moved, nothing said."""
    desk.observer.happened(Ownership("assigned", ["b/1", "a/0"], {"clicks": [0, 1], "users": [0]}))
    desk.observer.happened(Ownership("revoked", [], {"clicks": [0, 1], "users": [0]}))
    desk.observer.happened(Ownership("lost", ["b/1"], {"clicks": [0]}))
    got = [(line["level"], line["event"], line["tasks"], line["owned"]) for line in desk.lines()]
    assert got == [
        ("info", "partitions_assigned", ["a/0", "b/1"], {"clicks": 2, "users": 1}),
        ("warning", "partitions_lost", ["b/1"], {"clicks": 1}),
    ]


def test_a_restore_is_told_once_a_minute_for_all_tasks(desk: Desk) -> None:
    """Start and end have a line a task, progress one for all; tasks without state and those that went have none."""
    desk.observer.happened(Restored("empty/0", 0, 0.1))
    for task, remaining in (("a/0", 100), ("a/1", 50)):
        desk.observer.happened(Restoring(task, 0, remaining))
    desk.now = 59.0
    desk.observer.happened(Restoring("a/0", 90, 10))
    assert desk.events() == ["restore_started", "restore_started"]
    desk.now = 60.0
    desk.observer.happened(Restoring("a/0", 5, 5))
    assert [(line["event"], line["tasks"], line["remaining"]) for line in desk.lines()] == [("restore_progress", 2, 55)]
    desk.observer.happened(Restored("a/0", 100, 61.0))
    desk.observer.happened(Ownership("revoked", ["a/1"], {}))
    desk.now = 120.0
    desk.observer.ticked(0.0)
    desk.observer.lagged({})
    assert desk.events() == ["restore_finished", "partitions_revoked"]


def test_commits_that_fail_are_told_once_a_minute_for_each_task(desk: Desk) -> None:
    """The first at once with its outcome and why, those of the same task in the minute behind it as one."""
    for number in range(3):
        desk.observer.happened(Uncommitted("a/0", "unknown", 1.5, f"no answer {number}"))
    desk.observer.happened(Uncommitted("a/1", "failed", 0.5, "refused"))
    got = [(line["event"], line["task"], line["outcome"], line["why"]) for line in desk.lines()]
    assert got == [("commit_failed", "a/0", "unknown", "no answer 0"), ("commit_failed", "a/1", "failed", "refused")]
    desk.now = 60.0
    desk.observer.lagged({})
    (line,) = desk.lines()
    assert (line["why"], line["suppressed"]) == ("no answer 2", 2)


def test_a_partition_that_stalls_is_told_when_it_does(desk: Desk) -> None:
    """Once when it stalls, with where it stands; not again while it does, and again after it has moved."""
    stuck = {("clicks", 1): Standing(5, 9, 200.25, stalled=True)}
    for standings in (stuck, stuck, {("clicks", 1): Standing(6, 9, 1.0)}):
        desk.observer.lagged(standings)
    (line,) = desk.lines()
    place = {name: line[name] for name in ("topic", "partition", "position", "end", "lag_seconds")}
    assert place == {"topic": "clicks", "partition": 1, "position": 5, "end": 9, "lag_seconds": 200.25}
    desk.now = 100.0
    desk.observer.lagged(stuck)
    assert desk.events() == ["partition_stalled"]
