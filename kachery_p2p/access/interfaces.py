"""What the parts that know members, and those that know roots, give to the one that decides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from kachery_p2p.access.audience import Audience


class Memberships(Protocol):
    """Which peers are in which groups; `kachery_p2p.membership` has it. Safe to ask from many threads."""

    def groups_of(self, peer: str) -> frozenset[str]:
        """The groups that this machine and a peer are both in, by ID; `OWN` among them for the user's own machines.

        A dictionary's look-up: it is asked for each message.
        """
        ...

    def own_groups(self) -> frozenset[str]:
        """The groups that this machine is in, without `OWN`."""
        ...

    def members_of(self, group: str) -> Collection[str]:
        """The peer IDs of a group's members, this machine's not among them; none where it is not known here."""
        ...

    def addresses_of(self, peer: str) -> Collection[str]:
        """The multiaddrs at which a member said it could be reached; perhaps none."""
        ...

    def on_changed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be called, in the event loop, when somebody came or went or a secret changed. Returns how to end that."""
        ...


class GroupSecrets(Protocol):
    """The secrets of groups, for what derives keys from them. Safe to ask from many threads."""

    def secrets_of(self, group: str) -> tuple[bytes, ...]:
        """32 bytes each, that of today first, then earlier ones with which members that were away still announce."""
        ...


class Audiences(Protocol):
    """Who may see which block; the repo has it. Safe to ask from many threads."""

    def any_restricted(self) -> bool:
        """Whether there is any root here that not everyone may see. Cheap: it is asked before each look-up."""
        ...

    def audiences(self, multihashes: Collection[bytes]) -> Mapping[bytes, Audience]:
        """Of these blocks those that not everyone may see, and who may."""
        ...


class Served(Protocol):
    """Is told what peers were given; `kachery_p2p.access.log` has it. Cheap, and raises nothing."""

    def note(self, peer: str, multihash: bytes, size: int) -> None:
        """A peer was sent a block that is not for everyone: `size` bytes."""
        ...
