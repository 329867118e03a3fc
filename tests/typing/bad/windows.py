"""Mistakes with windows and what follows them: each line marked is refused by every type checker, and no other."""

from datetime import datetime, timedelta

from streamproc import Count, Hopping, Mean, StdDev, Topology, Trailing, Tumbling
from tests.typing.good.events import Click, Latency

topology = Topology("windows")
clicks = topology.source("clicks", Click, event_time=lambda c: c.ts)
by_user = clicks.key_by(lambda c: c.user)
by_route = topology.source("latency", Latency, event_time=lambda r: r.ts).key_by(lambda r: r.route)
minute = by_user.window(Tumbling("1m"))
hour = by_route.window(Trailing("1h"))

# a number has no unit

Tumbling(60)  # error
Tumbling(60.0)  # error
Tumbling(size=60_000)  # error
Tumbling("1m", grace=30)  # error
Tumbling("1m", offset=0)  # error
Hopping("1m", advance=5)  # error
Hopping(60, advance="5s")  # error
Trailing(3600)  # error
Trailing("1h", grace=1)  # error
Tumbling(timedelta(minutes=1), grace=timedelta(seconds=1).total_seconds())  # error

# windows as they are not

Tumbling()  # error
Tumbling("1m", "30s")  # error
Hopping("1m")  # error
Hopping("1m", "5s")  # error
Hopping("1m", step="5s")  # error
Trailing("1h", advance="5m")  # error
clicks.window(Tumbling("1m"))  # error
by_user.window("1m")  # error
by_user.window()  # error
by_user.window(Tumbling)  # error
by_user.window(Tumbling("1m"), "late")  # error
by_user.window(Tumbling("1m"), late=True)  # error
minute.to("clicks")  # error
minute.map(lambda w: w)  # error
minute.window(Tumbling("1h"))  # error

# every aggregate has a name

minute.count()  # error
minute.count("clicks")  # error
minute.agg(Count())  # error
minute.agg(Count(), Count())  # error
minute.agg(n=Count())  # error
minute.agg(Count(), "clicks")  # error
minute.reduce(lambda a, b: a)  # error
minute.count(name=None)  # error
minute.count(name="clicks", emit="on_clsoe")  # error
minute.agg(Count(), name="clicks", emit="on_clsoe")  # error
minute.agg(n=Count(), name="clicks", emit="on_clsoe")  # error
minute.reduce(lambda a, b: a, name="clicks", emit=True)  # error

# what a result has

minute.count(name="n1").map(lambda w: w.user)  # error
minute.count(name="n2").map(lambda w: w.value.user)  # error
minute.count(name="n3").map(lambda w: w.value + w.key)  # error
minute.count(name="n4").map(lambda w: w.event.user)  # error
minute.count(name="n5").map(lambda w: w.start + 1)  # error
minute.reduce(lambda a, b: a, name="n6").map(lambda w: w.value.name)  # error
minute.agg(Count(), Count(), name="n7").map(lambda w: w.value[2])  # error
minute.agg(Count(), Count(), name="n8").map(lambda w: w.value.count_)  # error
minute.count(name="n9").window(Tumbling("1h")).agg(Mean(of=lambda m: m.n), name="n10")  # error
hour.count(name="n11").map(lambda w: w.event.user)  # error
hour.agg(StdDev(of=lambda r: r.ms), name="n12").map(lambda w: w.value * 2)  # error
hour.agg(Mean(of=lambda r: r.ms), Count(), name="n13").map(lambda w: w.value[0].ms)  # error
ends: datetime = minute.count(name="n14").map(lambda w: w.end)  # error
