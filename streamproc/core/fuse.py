"""Plan -> its generated loops."""

from __future__ import annotations

from streamproc.core.task import Task


def fuse(task: Task) -> None:
    """Give a task the generated loops of its stage."""
