"""Several observers hear what one hears."""

from dataclasses import dataclass, field
from typing import Any

from streamproc.metrics.observers import Observers
from streamproc.ports import Observer
from streamproc.ports.worker import Ownership, Standing
from tests.observability.plans import PLAN, busy_step, full_commit, letter


@dataclass
class Heard:
    """An observer that writes down every call."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def planned(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("planned", *told))

    def read(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("read", *told))

    def stepped(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("stepped", *told))

    def committed(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("committed", *told))

    def progressed(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("progressed", *told))

    def counted(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("counted", *told))

    def state(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("state", *told))

    def happened(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("happened", *told))

    def lagged(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("lagged", *told))

    def polled(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("polled", *told))

    def ticked(self, *told: Any) -> None:
        """Writes it down."""
        self.calls.append(("ticked", *told))


def tell(observer: Observer) -> None:
    """One call of each kind."""
    observer.state("starting")
    observer.planned(PLAN)
    observer.counted("clicks-0", {"per_user": 1}, {"per_user": 2})
    observer.read("clicks", 0, 10, 100, 10)
    observer.stepped("clicks-0", busy_step(), 10, 0.1)
    observer.committed(full_commit(), [letter()], 0.2)
    observer.progressed({("clicks", 0): 1}, ("clicks", 0))
    observer.happened(Ownership("assigned", ["clicks/0"], {"clicks": [0]}))
    observer.lagged({("clicks", 0): Standing(10, 20, 1.5)})
    observer.polled({"fetch": 0.1})
    observer.ticked(0.001)


def test_each_observer_is_told_everything() -> None:
    """Every call reaches every observer, with all it says."""
    alone, first, second = Heard(), Heard(), Heard()
    tell(alone)
    tell(Observers((first, second)))
    assert [call[0] for call in alone.calls] == [
        "state",
        "planned",
        "counted",
        "read",
        "stepped",
        "committed",
        "progressed",
        "happened",
        "lagged",
        "polled",
        "ticked",
    ]
    assert first.calls == second.calls == alone.calls


def test_no_observer_is_an_observer() -> None:
    """A fan-out to nobody accepts every call."""
    tell(Observers())
