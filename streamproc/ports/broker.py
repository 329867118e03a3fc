"""What a worker asks of Kafka: one call for each request of its protocol, and what may come of it.

    an answer    the broker did it
    Refused      the broker said no: definite, nothing happened
    Unsent       the request never left: definite too
    Unanswered   it left, and no answer came: it may have happened, or may happen yet

Nothing in here waits for ever: every call ends within the limit it was made with.  A call that is cancelled counts as
unanswered.  Which node is the leader or the coordinator is the adapter's business, but for `fetch`: a read that waits
for news at one node must not hold up those at another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol

from streamproc.core.batch import Headers


class Code(IntEnum):
    """The error codes of the protocol that a worker tells apart."""

    UNKNOWN = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER = 6
    REQUEST_TIMED_OUT = 7
    MESSAGE_TOO_LARGE = 10
    COORDINATOR_LOADING = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC = 17
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    TOPIC_ALREADY_EXISTS = 36
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE = 45
    DUPLICATE_SEQUENCE = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTION_COORDINATOR_FENCED = 52
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    UNKNOWN_PRODUCER_ID = 59
    GROUP_MAX_SIZE_REACHED = 81
    MEMBER_ID_REQUIRED = 79
    FENCED_INSTANCE_ID = 82
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90
    TRANSACTION_ABORTABLE = 120


class BrokerError(Exception):
    """A request that did not get the answer it was made for."""


class Refused(BrokerError):
    """The broker said no: definite, nothing happened.

    `code` is that of the protocol, known here or not; `what` names what was asked for, with topic and partition.
    """

    def __init__(self, code: int, what: str) -> None:
        self.code = code
        self.what = what
        try:
            name = Code(code).name
        except ValueError:
            name = f"error {code}"
        super().__init__(f"{what}: {name}")


class Unsent(BrokerError):
    """The request never left, for want of a connection: definite, nothing happened."""


class Unanswered(BrokerError):
    """The request left and no answer came in time: whether it was or will be done is not known."""


class Unauthenticated(BrokerError):
    """The broker does not accept who we are, or we not who it is (TLS, SASL)."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Described(NamedTuple):
    """A topic as the brokers describe it: the leader of each partition by node number, -1 while it has none."""

    leaders: Mapping[int, int]
    code: int = Code.NONE


class Member(NamedTuple):
    """One member of a group as its leader sees it; `metadata` is what the member said of itself."""

    id: str
    metadata: bytes
    instance: str | None = None


class Joined(NamedTuple):
    """A generation of a group; `members` are told to its leader only."""

    generation: int
    member: str
    leader: str
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member says each time it joins; times in ms.  `protocol` names its way of assigning.

    With `topics`, the group is one of consumers: what its members say of themselves, and their shares, are in the form
    that tools read, and brokers keep the offsets of the topics that are named in there.
    """

    group: str
    protocol: str
    session_timeout: int
    rebalance_timeout: int
    instance: str | None = None
    topics: tuple[str, ...] = ()


class Read(NamedTuple):
    """A partition to be read from an offset on, `limit` bytes at most unless its first batch is larger."""

    topic: str
    partition: int
    offset: int
    limit: int = 1_048_576


@dataclass(slots=True)
class Fetched:
    """What one read brought: committed data records as parallel lists, none where there is nothing new.

    `next_offset` is where to read on: behind the last record, and behind markers and what was aborted.  `end` is the
    log's end, `stable` its last stable offset, `start` its first; -1 where they are not known.  `stamps` are Kafka's
    own timestamps, and `appended` says whether they are the broker's (LogAppendTime).  With a `code` there is nothing
    else; `why` says more for CORRUPT_MESSAGE.
    """

    topic: str
    partition: int
    code: int = Code.NONE
    next_offset: int = 0
    end: int = -1
    stable: int = -1
    start: int = -1
    offsets: Sequence[int] = ()
    keys: Sequence[bytes | None] = ()
    values: list[bytes | None] | tuple[()] = ()
    stamps: Sequence[int] = ()
    headers: Sequence[Headers] | None = None
    appended: bool = False
    size: int = 0
    why: str = ""


class Outgoing(NamedTuple):
    """One record to be written; `at` in ms becomes its Kafka timestamp and is not negative."""

    key: bytes | None
    value: bytes | None
    at: int
    headers: Headers = ()


class Writer(NamedTuple):
    """Who writes: a transactional id in its present incarnation.  Without an id it is nobody in particular."""

    transactional_id: str | None
    producer_id: int = -1
    epoch: int = -1


NOBODY = Writer(None)
"""Who writes without transactions: at least once."""


class Appending(NamedTuple):
    """Records for one partition, in one batch; `sequence` counts the writer's records in that partition."""

    topic: str
    partition: int
    sequence: int
    records: Sequence[Outgoing]


Isolation = Literal["read_committed", "read_uncommitted"]


class Broker(Protocol):
    """Kafka as a worker sees it."""

    # what there is

    async def metadata(self, topics: Collection[str]) -> Mapping[str, Described]:
        """Each topic as it is now, never from memory."""
        ...

    async def list_offsets(
        self, partitions: Collection[TopicPartition], at: Literal["start", "end"] | int, isolation: Isolation
    ) -> Mapping[TopicPartition, int]:
        """The first offset, the end, or the first at or behind a time in ms (the end if there is none).

        The end is the log's with read_uncommitted, else the last stable offset.
        """
        ...

    async def trim(self, before: Mapping[TopicPartition, int]) -> None:
        """Delete what lies before an offset of each partition."""
        ...

    # the group

    async def join(self, membership: Membership, member: str, metadata: bytes) -> Joined:
        """Join or join again; waits for the others, `rebalance_timeout` at most.  `member` is "" at first.

        Refused(MEMBER_ID_REQUIRED) never comes out of here: it is answered at once with the id that was given.
        """
        ...

    async def sync(self, membership: Membership, generation: int, member: str, shares: Mapping[str, bytes]) -> bytes:
        """Give (the leader) and get the assignment of this generation; b"" for nothing."""
        ...

    async def heartbeat(self, membership: Membership, generation: int, member: str) -> None: ...

    async def leave(self, membership: Membership, member: str) -> None: ...

    async def offset_fetch(self, group: str, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The committed offsets; a partition without one is left out.

        Refused(UNSTABLE_OFFSET_COMMIT) while a transaction still holds one of them, where the broker can tell.
        """
        ...

    async def offset_commit(
        self, group: str, offsets: Mapping[TopicPartition, int], generation: int, member: str
    ) -> None:
        """Commit offsets outside of any transaction; generation -1 and member "" for nobody."""
        ...

    # reading

    async def fetch(self, node: int, reads: Sequence[Read], wait: int, isolation: Isolation) -> list[Fetched]:
        """Read partitions led by one node; waits up to `wait` ms while there is nothing."""
        ...

    # writing

    async def init_producer(self, transactional_id: str, lasting: int) -> Writer:
        """Fence whoever wrote under this id and end its transaction; ours may last `lasting` ms each.

        Refused(CONCURRENT_TRANSACTIONS) while that end is not reached yet.
        """
        ...

    async def add_partitions(self, writer: Writer, partitions: Collection[TopicPartition]) -> None:
        """Make partitions part of the open transaction, or open it."""
        ...

    async def produce(self, writer: Writer, batches: Sequence[Appending]) -> Mapping[TopicPartition, int]:
        """Append one batch to each of several partitions, one request for each leader; all of them succeeded.

        Gives the offset of the first record of each batch, -1 where the broker does not tell.

        Otherwise raises what came of the first that did not, after all have come to their end; an unanswered one
        counts before a refused one.
        """
        ...

    async def add_offsets(self, writer: Writer, group: str) -> None:
        """Make the offsets of a group part of the open transaction."""
        ...

    async def txn_offsets(self, writer: Writer, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Offsets that become the group's when the transaction commits."""
        ...

    async def end_txn(self, writer: Writer, *, commit: bool) -> Writer:
        """End the open transaction; who writes the next one, its epoch raised where the broker does that."""
        ...

    # letting go

    def discard(self, transactional_id: str) -> None:
        """Cut the connections of a writer: nothing that waits in them will be sent any more."""
        ...

    async def close(self) -> None: ...
