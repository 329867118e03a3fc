"""The data that is shipped is what its page says, and what the examples read."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from topologies import flights, machines, requests

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("name", "event"), [("flights", flights.Departure), ("requests", requests.Request), ("metrics", machines.Metric)]
)
def test_every_line_is_an_event(name: str, event: type[Any]) -> None:
    """All lines decode, and their number and the size of the file are those of the table."""
    path = DATA / f"{name}.jsonl.gz"
    with gzip.open(path) as file:
        events = msgspec.json.Decoder(event).decode_lines(file.read())
    row = f"| `{path.name}` | `topologies.{'machines' if name == 'metrics' else name}` |"
    assert f"{row} {len(events):,} | {path.stat().st_size:,} |" in (DATA / "README.md").read_text()
