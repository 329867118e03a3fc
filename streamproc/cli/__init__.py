"""The command line: the one place where a topology, settings and adapters meet.

stdout is data, stderr is everything else.  This module imports without the libraries of the `cli` extra, so that what
is missing can be said in one line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("cyclopts", "rich")
USAGE = 2
OPTIMIZED = (
    "python -O and PYTHONOPTIMIZE take assertions out, and with them what keeps a Kafka client from going on after "
    "errors: start without them"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, that of the process unless given, and return its exit code."""
    if sys.flags.optimize:
        print(f"streamproc: {OPTIMIZED}", file=sys.stderr)
        return USAGE
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f'streamproc: {missing[0]} is not installed: pip install "streamproc[cli]"', file=sys.stderr)
        return USAGE
    from streamproc.cli.commands import run_command

    return run_command(sys.argv[1:] if arguments is None else list(arguments))
