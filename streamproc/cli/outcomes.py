"""How a command ends: with a code that says what happened, and one clear paragraph if badly.

0 done   1 crash or a task that stopped   2 usage, configuration or permissions   3 topology or state that does not fit
4 brokers that cannot be reached   75 no drain before the deadline   130 second Ctrl-C
"""

from __future__ import annotations

from streamproc.core.errors import StreamprocError

DONE, CRASH, USAGE, UNFIT, UNREACHABLE = 0, 1, 2, 3, 4
TOO_LATE, SECOND = 75, 130


class Unreachable(StreamprocError):
    """No broker answers; the text names the addresses."""
