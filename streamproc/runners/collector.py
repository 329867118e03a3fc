"""The garbage collector, tuned for engines: most of what a step makes is gone without it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (100_000, 50, 50)
"""When it looks at new objects, and at those that have survived."""


@contextmanager
def tuned_collector() -> Iterator[None]:
    """The collector with an engine's thresholds, and as it was afterwards; what was frozen meanwhile is so no more."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
