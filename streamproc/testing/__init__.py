"""What tests of a topology use: a driver with virtual time, and one call that tries every way to run it."""

from streamproc.testing.driver import TestDriver, Written, at, ms
from streamproc.testing.laws import verify

__all__ = ["TestDriver", "Written", "at", "ms", "verify"]
