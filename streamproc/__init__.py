"""streamproc: stream processing with windowed aggregations, in Python."""

from streamproc.core.aggregates import (
    Aggregate,
    Collect,
    Count,
    Distinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Reduce,
    StdDev,
    Sum,
    TopK,
    Variance,
)
from streamproc.core.batch import NEVER, Cell, Record
from streamproc.core.errors import ConfigError, StateError, StreamprocError, TaskFailed, TopologyError
from streamproc.core.operators import Context, Operator
from streamproc.core.windowing import WindowResult
from streamproc.core.windows import Hopping, Trailing, Tumbling
from streamproc.topology import Keyed, Stream, Topology, Windowed

__version__ = "0.1.0"

__all__ = [
    "NEVER",
    "Aggregate",
    "Cell",
    "Collect",
    "ConfigError",
    "Context",
    "Count",
    "Distinct",
    "First",
    "Hopping",
    "Keyed",
    "Last",
    "Max",
    "Mean",
    "Min",
    "Operator",
    "Quantile",
    "Record",
    "Reduce",
    "StateError",
    "StdDev",
    "Stream",
    "StreamprocError",
    "Sum",
    "TaskFailed",
    "TopK",
    "Topology",
    "TopologyError",
    "Trailing",
    "Tumbling",
    "Variance",
    "WindowResult",
    "Windowed",
    "__version__",
]
