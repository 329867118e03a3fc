"""What `check` finds, each with its code."""

import json
from dataclasses import dataclass

from streamproc import Topology, TopologyError, Tumbling
from streamproc.cli.checks import Finding, findings, written
from tests.embedded.topologies import Click, counting


@dataclass
class Sample:
    """A topology with a source, to which each test adds its mistake."""

    topology: Topology

    @classmethod
    def new(cls, *, dead_letters: str | None = None) -> "Sample":
        """A sound beginning."""
        return cls(Topology("sample", dead_letters=dead_letters))

    def codes(self, partitions: int = 1) -> list[tuple[str, str, str]]:
        """What is found, in short."""
        return [(one.code, one.severity, one.about) for one in findings(lambda: self.topology, partitions)]


def test_a_sound_topology_passes() -> None:
    """Nothing is found in a topology that says where everything goes."""
    assert findings(counting, 1) == findings(counting, 3) == []


def test_a_topology_that_cannot_be_built_is_an_error() -> None:
    """SP100 says what is wrong with the declaration, wherever that is noticed."""

    def wrong() -> Topology:
        raise TopologyError("it is wrong")

    assert findings(wrong, 1) == [Finding("SP100", "error", "topology", "it is wrong")]
    assert [one.code for one in findings(lambda: Topology("empty"), 1)] == ["SP100"]


def test_a_node_that_nothing_follows_is_found() -> None:
    """SP101: its results go nowhere; SP102: so do all results."""
    sample = Sample.new()
    clicks = sample.topology.source("clicks", Click, event_time=lambda c: c.ts)
    clicks.filter(lambda c: c.n > 0)
    assert sample.codes() == [("SP101", "warning", "filter"), ("SP102", "error", "sample")]
    clicks.to("all")
    assert sample.codes() == [("SP101", "warning", "filter")]


def test_a_source_needs_a_time() -> None:
    """SP401: lines of JSON bear no timestamps."""
    sample = Sample.new()
    sample.topology.source("clicks", Click).to("all")
    assert sample.codes() == [("SP401", "error", "clicks")]


def test_late_records_should_be_seen() -> None:
    """SP403: late records that are only counted are a warning, unless that was said to be meant."""

    def found(*, dead_letters: str | None = None, late: str | None = None, skip: bool = False) -> list[str]:
        sample = Sample.new(dead_letters=dead_letters)
        clicks = sample.topology.source("clicks", Click, event_time=lambda c: c.ts)
        counts = clicks.key_by(lambda c: c.user).window(Tumbling("1s"), late=late).count(name="counts")
        if skip:
            counts = counts.on_error("late", then="skip")
        counts.to("counts")
        return [code for code, _, _ in sample.codes()]

    assert found() == ["SP403"]
    assert found(dead_letters="dead") == found(late="late") == found(skip=True) == []


def test_findings_are_written_for_people_programs_and_workflows() -> None:
    """The same findings as text, as JSON lines, and as annotations."""
    found = [Finding("SP100", "error", "topology", "50% wrong\nand more")]
    assert list(written(found, "text")) == ["SP100 error: 50% wrong\nand more"]
    assert [json.loads(line) for line in written(found, "json")] == [
        {"code": "SP100", "severity": "error", "about": "topology", "message": "50% wrong\nand more"}
    ]
    assert list(written(found, "github")) == ["::error title=SP100 topology::50%25 wrong%0Aand more"]
    assert [list(written([], form)) for form in ("text", "json", "github")] == [["nothing found"], [], []]
