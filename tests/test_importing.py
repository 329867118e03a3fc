"""Importing a topology touches nothing: no file but its own source, no socket, no process, no thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WATCH = """
import sys, threading
import streamproc, msgspec, datetime
seen = []
def watch(event, arguments):
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
        seen.append((event, str(arguments[0])))
    if event.startswith(("socket.", "subprocess.", "os.system", "sqlite3.", "os.remove", "os.mkdir", "shutil.")):
        seen.append((event, str(arguments)))
sys.addaudithook(watch)
module = __import__({module!r}, fromlist=["topology"])
module.topology.graph()
print(seen, threading.active_count())
"""


@pytest.mark.parametrize("module", ["topologies.flights", "topologies.requests", "topologies.machines"])
def test_importing_a_topology_touches_nothing(module: str) -> None:
    """A topology is data: making one opens no file, no socket and no state, and starts nothing."""
    command = [sys.executable, "-B", "-c", WATCH.format(module=module)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[] 1"
