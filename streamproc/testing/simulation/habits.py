"""In what brokers differ: between releases, and as they are set up."""

from __future__ import annotations

from dataclasses import dataclass

from streamproc.ports.broker import Code


@dataclass(frozen=True, slots=True)
class Habits:
    """In what brokers differ.

    bumps: each EndTxn raises the epoch (transaction.version 2).  stable_reads: OffsetFetch is refused while a
    transaction holds an offset; without, it answers with the old one.  forgetful: a TxnOffsetCommit that is refused
    since its writer is fenced takes away what its successor holds, which then is not committed (before 4.0).  sweep: s
    between looks for transactions that lasted too long.  rebalance_delay: s that the first member of an empty group
    waits for others.  markers: the usual and the greatest delay of a transaction's markers behind the answer to its
    EndTxn.  fenced: the code that tells a writer of its fencing when it adds to a transaction.  rolls: the share of
    batches and markers that begin a new segment of their log, at which a fetch ends (a marker behind records with old
    stamps always does).  last_epoch: behind it a transactional id gets a new producer id.
    """

    bumps: bool = True
    stable_reads: bool = True
    forgetful: bool = False
    sweep: float = 10.0
    rebalance_delay: float = 0.0
    markers: tuple[float, float] = (0.005, 0.17)
    fenced: Code = Code.INVALID_PRODUCER_EPOCH
    rolls: float = 0.02
    last_epoch: int = 32_766
    nodes: int = 1
