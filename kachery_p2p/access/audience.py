"""The audience of a root: who may load it from here.

Everyone; the members of some groups; or this user's own machines. Those are a group as well, `OWN`, which needs no
list of members: its peers are named in the settings. A block that is in several roots has the widest of their
audiences, which is the union.

As text: `public`, `private`, or the IDs of groups, sorted and joined by commas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kachery_p2p.errors import KacheryError

#: The ID of the group of the user's own machines. No other group can have it: theirs are longer.
OWN = "own"
#: What the ID of a group looks like: 16 bytes in base32, lower case, without padding.
GROUP_ID = re.compile(r"[a-z2-7]{26}")


@dataclass(frozen=True)
class Audience:
    """Who may load something.

    Attributes:
        everyone: whoever asks.
        groups: the IDs of groups whose members may. Empty where everyone may.
    """

    everyone: bool = False
    groups: frozenset[str] = frozenset()

    def admits(self, groups: frozenset[str]) -> bool:
        """Whether a peer may load it that is in these groups."""
        return self.everyone or not self.groups.isdisjoint(groups)

    def __or__(self, other: Audience) -> Audience:
        """Who may load it that is in two roots."""
        if self.everyone or other.everyone:
            return PUBLIC
        return Audience(groups=self.groups | other.groups)

    def __le__(self, other: Audience) -> bool:
        """Whether all that this admits is admitted by the other, too."""
        return other.everyone or (not self.everyone and self.groups <= other.groups)

    def __str__(self) -> str:
        if self.everyone:
            return "public"
        return ",".join(sorted(self.groups)) if self.groups != {OWN} else "private"


#: Whoever asks.
PUBLIC = Audience(everyone=True)
#: The user's own machines.
PRIVATE = Audience(groups=frozenset({OWN}))
#: Nobody else, not even those: what is known of something before it is known for whom it is.
NOBODY = Audience()


def group_audience(groups: Iterable[str]) -> Audience:
    """The members of some groups.

    Args:
        groups: at least one ID.

    Raises:
        KacheryError: one of them is not the ID of a group.
    """
    found = frozenset(groups)
    for each in found:
        if each != OWN and not GROUP_ID.fullmatch(each):
            raise KacheryError(f"{each!r} is not the ID of a group: that is 26 letters a-z and digits 2-7.")
    return Audience(groups=found)


def parse_audience(text: str) -> Audience:
    """What `str` made of an audience.

    Raises:
        KacheryError: it is not one.
    """
    if text == "public":
        return PUBLIC
    if text == "private":
        return PRIVATE
    return group_audience(text.split(",")) if text else NOBODY
