"""What leaves this machine by another way than to those who may load it from here: pinning services, and CAR files.

What is not for everybody leaves encrypted, for those whom it is for. The encrypted copy is a root of its own, which is
public: it is cipher text. What was stored encrypted is that already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kachery_cloud.audiences import audience_here, groups_here, uri_groups, whom
from kachery_cloud.encryption.records import EncryptedRoots
from kachery_cloud.errors import NoPermission
from kachery_cloud.local import is_local_directory, outbox, repository
from kachery_cloud.terminal import tell
from kachery_cloud.uri import AGE, ContentURI
from kachery_p2p.access.audience import PUBLIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kachery_cloud.encryption.recipients import Encrypt, Recipients
    from kachery_cloud.lab_places import Place
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.cid import CID


def to_pin(config: Config, cid: CID, size: int | None, name: str) -> tuple[CID, int | None, str]:
    """What a pinning service is given in place of a root, its bytes, and its name, which the service learns.

    That is the root itself where it is for everybody. What is encrypted for some has no name there.

    Raises:
        BlockNotLocal: it is to be encrypted, and is not all here.
        ConfigError: this machine does not have the secret of the group that it is for.
        DiskFull, NoPermission: the encrypted copy cannot be stored.
    """
    repo = repository(config)
    audience = audience_here(repo, cid)
    if audience.everyone:
        return cid, size, name
    if EncryptedRoots(repo).has(cid):
        repo.access.set_audience(cid, PUBLIC)
        tell(
            "It is encrypted, and was not for everybody; a pinning service gives it to everybody, so anybody can load "
            "its cipher text now."
        )
        return cid, size, ""
    from kachery_cloud.encryption.storing import seal_root

    sealed = seal_root(config, cid, _readers(config, audience), name)
    uri = ContentURI(str(sealed.cid), label=name or None, encryption=AGE)
    names = " The names of the files in it can be read by anybody." if is_local_directory(repo, cid) else ""
    tell(
        f"It is for {whom(config, audience)} alone, so an encrypted copy goes to the pinning service: {uri.pasteable} "
        f"Anybody can load that, and only they can decrypt it; it takes as much room here again.{names}"
    )
    return sealed.cid, sealed.size, ""


def as_it_is(config: Config, place: Place | None, cid: CID, service: str) -> bool:
    """Whether a pinning service is given a root that is for some alone as it is, and not an encrypted copy.

    That is so for the lab's node, where the root is for the group of a project, and the lists that this machine has of
    that group, signed by its owners, say that this very peer is in it. The service is told the CID and the name. It
    gets no byte by being asked: its node has to fetch them from a member, and shows there by its key who it is.
    """
    if place is None or place.group is None or service != place.service:
        return False
    audience = audience_here(repository(config), cid)
    if audience.everyone or audience.groups != {place.group}:
        return False
    group = next((each for each in groups_here(config) if each.id == place.group), None)
    return group is not None and place.peer in [member.peer for member in group.members]


def pinned_root(config: Config, cid: CID) -> CID:
    """Under which CID a root is pinned: that of its encrypted copy, where that is what was pinned."""
    repo = repository(config)
    copies = {str(copy.to_v1()) for copy in EncryptedRoots(repo).sealed_copies(cid)}
    if not copies:
        return cid
    from kachery_p2p.dag.cid import CID

    entries = {entry.cid: entry for entry in outbox(config).list()}
    if str(cid) in entries:
        return cid
    found = [entry for entry in entries.values() if str(CID.parse(entry.cid).to_v1()) in copies]
    return CID.parse(max(found, key=lambda entry: entry.added).cid) if found else cid


def to_export(config: Config, roots: Sequence[CID], *, encrypt: Encrypt, plain: bool) -> list[CID]:
    """What goes into a CAR file in place of some roots.

    Args:
        config: of the data directory.
        roots: what was asked for.
        encrypt: as for `store_file`: all that is not encrypted yet is to be.
        plain: they are to be written as they are, for whomever they are.

    Raises:
        NoPermission: some are not for everybody, and nobody said how they are to leave.
    """
    repo = repository(config)
    encrypted = EncryptedRoots(repo)
    if encrypt is None or encrypt is False:
        for root in () if plain else roots:
            audience = audience_here(repo, root)
            if not audience.everyone and not encrypted.has(root):
                given = ContentURI(str(root), groups=uri_groups(audience)).pasteable
                raise NoPermission(
                    f"{given} is for {whom(config, audience)} alone, and whoever has the CAR file could read it. Write "
                    "an encrypted copy with --encrypt (in Python encrypt=True), or, if you know who gets the file, "
                    "write it as it is with --plain (plain=True)."
                )
        return list(roots)
    from kachery_cloud.encryption.recipients import recipients_for
    from kachery_cloud.encryption.storing import seal_root

    found: list[CID] = []
    for root in roots:
        audience = audience_here(repo, root)
        recipients = recipients_for(config, encrypt, None if audience.everyone else audience)
        assert recipients is not None, "it is to be encrypted"
        found.append(root if encrypted.has(root) else seal_root(config, root, recipients).cid)
    return found


def _readers(config: Config, audience: Audience) -> Recipients:
    """Those whom something is for, and this machine."""
    from kachery_cloud.encryption.recipients import recipients_for

    found = recipients_for(config, True, audience)
    assert found is not None, "it is to be encrypted"
    return found
