"""What several servers say of one question, and when that is an answer. Sans-IO.

Each network has one vote, its last. The newest `limits.QUORUM` votes decide by majority, so one liar among three
changes nothing, and a change of the truth shows after one round of questions.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from kachery_p2p.transport.nat import limits


@dataclass(frozen=True)
class Vote:
    """One server's word: yes or no, who, and when (seconds, monotonic)."""

    yes: bool
    peer: str
    at: float


@dataclass(frozen=True)
class Tally:
    """The newest votes on a question.

    Attributes:
        yes, no: how many each.
        result: the answer; `None` while there are too few votes, or as many for as against.
        asked_at: when the newest came.
    """

    yes: int
    no: int
    result: bool | None
    asked_at: float


class Ballot:
    """The votes on one question, the oldest first."""

    def __init__(self) -> None:
        self._votes: OrderedDict[str, Vote] = OrderedDict()

    def add(self, network: str, vote: Vote) -> None:
        """The vote of a network; its earlier one is void."""
        self._votes.pop(network, None)
        self._votes[network] = vote
        while len(self._votes) > limits.MAX_VOTES:
            self._votes.popitem(last=False)

    def since(self, moment: float) -> set[str]:
        """The networks that have voted at or after a moment."""
        return {network for network, vote in self._votes.items() if vote.at >= moment}

    def last(self, network: str) -> float:
        """When a network voted last; minus infinity when it has not."""
        vote = self._votes.get(network)
        return vote.at if vote else float("-inf")

    def tally(self, needed: int, now: float) -> Tally:
        """What the newest votes say, where at least `needed` are to be had."""
        valid = [vote for vote in self._votes.values() if now - vote.at < limits.VOTE_LIFETIME]
        newest = valid[-limits.QUORUM :]
        yes = sum(vote.yes for vote in newest)
        no = len(newest) - yes
        decided = len(newest) >= needed and yes != no
        return Tally(yes, no, yes > no if decided else None, newest[-1].at if newest else float("-inf"))
