"""The web server around a run: at the port that was asked for, or at a free one if nobody has asked for one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamproc.config import Config
from streamproc.core.errors import ConfigError

if TYPE_CHECKING:
    from streamproc.adapters.http import HttpServer


@contextmanager
def served(config: Config, server: Callable[[int], HttpServer]) -> Iterator[str | None]:
    """The web server around a run, as the address it answers at; None if there shall be none.

    `server` makes one for a port.
    """
    if not config.http_enabled:
        yield None
        return
    serving = server(config.http_port)
    try:
        host, port = serving.start()
    except ConfigError:
        if not config.is_default("http.port"):
            raise
        serving = server(0)
        host, port = serving.start()
        print(f"port {config.http_port} is in use, so another one is taken", file=sys.stderr)
    try:
        yield f"http://{host}:{port}"
    finally:
        serving.stop()
