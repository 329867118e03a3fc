"""What holds for every test: how Hypothesis searches, and what a test may not reach.

The developer's own STREAMPROC_ settings are dropped, so that a test sees the settings it makes and no others.
"""

import ipaddress
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# No deadlines and no complaint about speed: both ask the clock, and a busy machine is no bug.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None, print_blob=True)
settings.register_profile("mutants", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

for setting in [name for name in os.environ if name.startswith("STREAMPROC_")]:
    if not setting.startswith("STREAMPROC_TEST_"):
        del os.environ[setting]


def _is_here(host: object) -> bool:
    """Whether `host` is this machine.  Other names than localhost are not: asking for them leaves it."""
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _stay_here(event: str, args: tuple[object, ...]) -> None:
    """Refuse every connection that would leave the machine, whatever library makes it."""
    if event == "socket.connect" and isinstance(args[1], tuple) and not _is_here(args[1][0]):
        msg = f"a test may only reach this machine, not {args[1]}"
        raise RuntimeError(msg)


sys.addaudithook(_stay_here)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of larger reference data, where STREAMPROC_TEST_DATA names one; else the test is skipped."""
    root = os.environ.get("STREAMPROC_TEST_DATA")
    if not root:
        pytest.skip("STREAMPROC_TEST_DATA names no folder")
    return Path(root) / "data"
