"""Events of the other examples."""

from datetime import datetime

import msgspec


class Click(msgspec.Struct, frozen=True):
    """Somebody clicked on an advertisement."""

    user: str
    ad: str
    ts: datetime


class Latency(msgspec.Struct, frozen=True):
    """How long a request took."""

    route: str
    ms: float
    ts: datetime


class Order(msgspec.Struct, frozen=True):
    """Somebody ordered something."""

    order_id: str
    user_id: str
    amount: float
    items: int
    ts: datetime
