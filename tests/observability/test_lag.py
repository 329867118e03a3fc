"""Where the partitions of a worker stand, as `/lag` tells it."""

from typing import Any

from streamproc.core.batch import END
from streamproc.metrics.lag import LagObserver
from streamproc.ports import Observer
from streamproc.ports.worker import Ownership, Rebalanced, Standing
from tests.observability.test_observers import tell


def rows(observer: LagObserver, *fields: str) -> list[tuple[Any, ...]]:
    """Some fields of each row."""
    return [tuple(row[name] for name in fields) for row in observer.table()["partitions"]]


def test_the_observer_is_one() -> None:
    """It hears whatever there is to be told, and keeps what is of partitions."""
    observer = LagObserver()
    watching: Observer = observer
    tell(watching)
    assert rows(observer, "topic", "partition", "position", "lag_records", "watermark", "holds") == [
        ("clicks", 0, 10, 10, 1, True)
    ]


def test_what_is_not_owned_is_forgotten() -> None:
    """Partitions go with their ownership, and their watermarks too; other events change nothing."""
    observer = LagObserver()
    observer.lagged({("clicks", 0): Standing(1, 2, 0.5), ("clicks", 1): Standing(3, None, 0.0)})
    observer.progressed({("clicks", 0): 1000, ("clicks", 1): END}, None)
    observer.happened(Rebalanced(1.0))
    assert rows(observer, "partition", "end", "lag_records", "watermark") == [(0, 2, 1, 1000), (1, None, 0, None)]
    observer.happened(Ownership("revoked", ["clicks/0"], {"clicks": [1]}))
    assert rows(observer, "partition") == [(1,)]
    observer.lagged({("clicks", 0): Standing(5, 5, 0.0)})
    assert rows(observer, "partition", "watermark") == [(0, None)]


def test_a_watermark_that_is_told_alone_leaves_the_others() -> None:
    """Each task tells of its own partitions; together they are all there is."""
    observer = LagObserver()
    observer.lagged({("clicks", 0): Standing(1, 1, 0.0), ("clicks", 1): Standing(1, 1, 0.0)})
    observer.progressed({("clicks", 0): 1000}, ("clicks", 0))
    observer.progressed({("clicks", 1): 2000}, ("clicks", 1))
    assert rows(observer, "watermark", "holds") == [(1000, False), (2000, True)]
