"""Names that move: one name for the newest version of a data set (IPNS).

A CID is that of certain bytes, for ever. A *name* is a key of this machine; what it points to is written in a record
that the key signs. Others keep the record, in the DHT, for two days at most, so a node of this machine has to run now
and then: it signs and sends the record again by itself. `ipns://<name>` is loaded like every other URI.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kachery_cloud.errors import ContentNotFound, InvalidArgument, InvalidURI, NoPermission
from kachery_cloud.settings.config import load_config
from kachery_cloud.settings.values import parse_timeout
from kachery_cloud.uri import ContentURI, NameURI, format_uri, parse_name_uri, parse_uri
from kachery_p2p.routing.ipns.limits import DEFAULT_TTL
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config

#: Seconds for the search for an older record, and as many for the sending: lookups in the public DHT.
PUBLISH_TIMEOUT = 60.0
#: Seconds that a name may take to be resolved, within the timeout of a load.
RESOLVE_TIMEOUT = 30.0
#: Seconds for which others may remember where a name points.
_MAX_TTL = 86_400.0


@dataclass(frozen=True)
class Published:
    """Where a name of this machine points.

    Attributes:
        uri: the name, `ipns://k51...`: what others are given.
        target: what it points to, `ipfs://...`.
        key: the name of the key; "self" is the machine's own.
        sequence: the number of the version.
        valid_until: seconds since 1970 to which others believe it, unless it is sent again.
        copies: how many DHT servers and routers took it now; None where that is not known.
    """

    uri: str
    target: str
    key: str
    sequence: int
    valid_until: float
    copies: int | None = None


def publish(name: str, uri: str, *, ttl: float = DEFAULT_TTL, timeout: float | None = None) -> Published:
    """Let a name point to a file or folder, in place of what it pointed to before.

    The name is a key of this machine, made when it is first used and kept in the data directory; whoever has the key
    can let the name point elsewhere. The node of this machine, which is started where none runs, looks for an older
    record first, so that the name never goes back, and sends the new one to the DHTs and the HTTP routers that are
    switched on. As long as a node runs here, it is kept alive.

    Args:
        name: the name of the key, such as "recordings"; "self" is the machine's own key; or an `ipns://` name of this
            machine.
        uri: what it is to point to; a path may be in it. Label and providers play no part.
        ttl: seconds for which others may remember it before they ask again.
        timeout: seconds for the search, and as many for the sending; 60 by default.

    Raises:
        InvalidName: a key cannot be called that.
        InvalidURI: `uri` is none, or `name` is a name that this machine has no key for.
        NoPermission: what it is to point to is not for everybody: the record of a name says its CID to all.
        NoPermission, IdentityError: the key cannot be made or read.
        NodeError: the node cannot be started.

    Example:
        >>> kcl.publish("recordings", uri).uri
        'ipns://k51qzi5uqu5d...'
    """
    from kachery_cloud.node.connection import get_connection
    from kachery_p2p.node.messages import PublishRequest
    from kachery_p2p.routing.ipns.shelf import check_key_name

    config = load_config()
    target = parse_uri(uri)
    key = _key_of(config, name)
    check_key_name(key)
    _check_public(config, target)
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0 <= ttl <= _MAX_TTL:
        raise InvalidArgument(f"ttl is {shown(ttl)}; it must be a number of seconds, from 0 to {_MAX_TTL:.0f}.")
    seconds = PUBLISH_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    path = "/".join(("/ipfs", target.cid, *target.path))
    done = get_connection(config).publish(PublishRequest(key, path, float(ttl), seconds))
    return Published(f"ipns://{done.name}", _uri_of_path(done.path), key, done.sequence, done.valid_until, done.copies)


def published() -> list[Published]:
    """The names of this machine, and where they point. Needs no network.

    Example:
        >>> for each in kcl.published():
        ...     print(each.key, each.uri, each.target)
    """
    from kachery_p2p.routing.dht.records import read_ipns
    from kachery_p2p.routing.ipns.names import name_text
    from kachery_p2p.routing.ipns.shelf import Shelf

    found: list[Published] = []
    for own in Shelf(load_config().directory).published():
        if own.record is not None:
            record = read_ipns(own.name, own.record)
            uri, target = f"ipns://{name_text(own.name)}", _uri_of_path(record.value.decode())
            found.append(Published(uri, target, own.key, record.sequence, record.valid_until / 1e9))
    return found


def resolve(uri: str, *, timeout: float | None = None) -> str:
    """Where a name points now: the URI of content, which stays what it is.

    Args:
        uri: `ipns://<name>`, perhaps with a path, a label and providers, which are kept. The URI of content is given
            back as it is.
        timeout: seconds to look for it; 30 by default.

    Raises:
        InvalidURI: it is no URI.
        InvalidName: it is no name, or one that leads to no content.
        ContentNotFound: nobody has a record of it that is valid.

    Example:
        >>> kcl.resolve("ipns://k51qzi5uqu5d.../session.nwb")
        'ipfs://bafybeih.../session.nwb'
    """
    named = parse_name_uri(uri)
    if named is None:
        return str(parse_uri(uri))
    seconds = RESOLVE_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    return str(follow(load_config(), named, timeout=seconds))


def follow(config: Config, named: NameURI, *, local_only: bool = False, timeout: float = RESOLVE_TIMEOUT) -> ContentURI:
    """The URI of content that a name leads to now, with its path, label and providers.

    Raises:
        ContentNotFound: nobody has a record; or the network is not to be used, and the name is none of this machine's.
        InvalidName, InvalidURI: it leads to no content.
    """
    path = _own_path(config, named.name)
    if path is None and local_only:
        raise ContentNotFound(
            f"Where ipns://{named.name} points must be asked of others, and only local data was asked for. Leave out "
            "local_only (--local-only), or use the ipfs:// URI of what it pointed to."
        )
    if path is None or not local_only:
        from kachery_cloud.node.connection import get_connection
        from kachery_p2p.node.messages import ResolveRequest

        request = ResolveRequest(named.name, min(timeout, RESOLVE_TIMEOUT))
        path = get_connection(config).resolve(request).path
    target = parse_uri(_uri_of_path(path))
    path_in = (*target.path, *named.path)
    return ContentURI(target.cid, path_in, named.label, named.providers, named.groups, named.encryption, named.key)


def _own_path(config: Config, name: str) -> str | None:
    """Where a name of this machine points, from its own record."""
    from kachery_p2p.routing.dht.records import read_ipns
    from kachery_p2p.routing.ipns.names import parse_name
    from kachery_p2p.routing.ipns.shelf import Shelf

    binary = parse_name(name)
    own = None if binary is None else Shelf(config.directory).by_name(binary)
    return None if own is None or own.record is None else read_ipns(own.name, own.record).value.decode()


def _check_public(config: Config, target: ContentURI) -> None:
    """See that everybody may know what a name is to point to.

    Raises:
        NoPermission: it is for some alone.
    """
    from kachery_cloud.audiences import audience_here, whom
    from kachery_cloud.local import repository
    from kachery_p2p.access.audience import group_audience

    audience = audience_here(repository(config), target.root)
    if audience.everyone and target.groups:
        audience = group_audience(target.groups)
    if not audience.everyone:
        raise NoPermission(
            f"{target.locator} is for {whom(config, audience)} alone, and a name tells everybody its CID, by the DHT. "
            "Give its URI away instead, or let everybody have it: kachery-cloud visibility URI --to public"
        )


def _key_of(config: Config, name: str) -> str:
    """The name of the key that is meant.

    Raises:
        InvalidURI: it is a name of another machine.
    """
    from kachery_p2p.peer_ids import peer_bytes
    from kachery_p2p.repo.keys import kept_identity
    from kachery_p2p.routing.ipns.names import parse_name
    from kachery_p2p.routing.ipns.shelf import SELF, Shelf

    if not isinstance(name, str):
        raise InvalidArgument(f"The name is {shown(name)}; it must be text: the name of a key, or ipns://...")
    named = parse_name_uri(name)
    binary = parse_name(name if named is None else named.name)
    if binary is None:
        return name
    own = Shelf(config.directory).by_name(binary)
    if own is not None:
        return own.key
    identity = kept_identity(config.directory)
    if identity is not None and peer_bytes(identity.peer_id) == binary:
        return SELF
    raise InvalidURI(f"This machine has no key of the name {name}. Only the machine that has it can publish under it.")


def _uri_of_path(path: str) -> str:
    """`/ipfs/<cid>/<path>`, with names as they are, as a URI."""
    _, _, rest = path.partition("/ipfs/")
    cid, *names = rest.split("/")
    return format_uri(cid, [name for name in names if name])
