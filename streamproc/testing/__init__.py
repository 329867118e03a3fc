"""What tests of a topology use: a driver with virtual time, and one call that tries every way to run it."""

from streamproc.testing.driver import TestDriver, Written, at, ms

__all__ = ["TestDriver", "Written", "at", "ms"]
