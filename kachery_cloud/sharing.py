"""Giving something away in one string: the URI, with the addresses at which this machine can be asked for it.

The string is a URI like any other (`kachery_cloud.uri_notes`), so whatever takes a URI takes it. It needs no quotes in
a shell, and is short enough for a QR code. Which addresses are in it: what the running node tells others of itself,
those that reach farthest first, a bounded number of each kind.
"""

from __future__ import annotations

import datetime
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from kachery_cloud import uri_notes
from kachery_cloud.arguments import check_flags, path_text
from kachery_cloud.audiences import audience_here, sentence_once, uri_groups
from kachery_cloud.errors import (
    ContentNotFound,
    FileExists,
    InvalidAddress,
    InvalidArgument,
    InvalidName,
    IsADirectory,
    NodeError,
)
from kachery_cloud.files_here import request_of
from kachery_cloud.local import (
    BlockNotLocal,
    find_local,
    is_local_directory,
    repository,
    resolve_local,
)
from kachery_cloud.request import Request
from kachery_cloud.settings.config import load_config
from kachery_cloud.sizes import Sizes
from kachery_cloud.terminal import tell
from kachery_cloud.uri import AGE, ContentURI, check_label, parse_uri
from kachery_cloud.visibility import check_widening
from kachery_p2p.access.audience import PUBLIC
from kachery_p2p.addresses import Reach, reach
from kachery_p2p.oserrors import explained
from kachery_p2p.protocols import HOSTS

if TYPE_CHECKING:
    from kachery_cloud.node.status_messages import RunningNode
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience
    from kachery_p2p.dag.cid import CID
    from kachery_p2p.node.status_messages import NodeStatus
    from kachery_p2p.repo.repo import Repo

#: Of each kind: one of IPv4 and one of IPv6, or two networks, or two relays.
MAX_OF_A_KIND = 2
#: Characters of an address. One through a relay, with two peer IDs, has some 170.
MAX_ADDRESS = 250
#: Characters of a label as it is encoded. A longer one is a text, not a name, and would not leave room in a QR code.
MAX_LABEL = 300

#: Seconds for a node that was just started to enter the network, ask others to dial it, and find a relay.
SETTLING = 15.0
#: Seconds between two looks at how far it is.
LOOK_AGAIN = 0.25
#: Data directories whose node, in this process, has had that time.
_settled: set[Path] = set()

#: From how far away a node can be loaded from; "unsure" where nobody has tried its public address yet.
Range: TypeAlias = Literal["world", "relay", "unsure", "network", "machine", "none"]


@dataclass(frozen=True)
class Reachable:
    """From where this machine can be loaded from, and at which addresses.

    Attributes:
        range: "world" (others have dialled it), "relay" (only by way of one), "unsure", "network" (its own), "machine",
            or "none" (no node runs here).
        addresses: to give away, those that reach farthest first.
        most_bytes: what a relay carries for a stranger at most; 0 where there is no bound, or no relay.
        private_network: only holders of its key are spoken to.
        restricted: it is about something that is for a group, or private.
    """

    range: Range
    addresses: tuple[str, ...] = ()
    most_bytes: int = 0
    private_network: bool = False
    restricted: bool = False

    @property
    def from_outside(self) -> bool:
        """Whether there is an address that machines of other networks can dial, as far as is known."""
        return self.range in ("world", "relay", "unsure")

    @property
    def sentence(self) -> str:
        """Who can load from here now; of what is not for everybody, those of them for whom it is."""
        who = "Whoever holds the swarm key" if self.private_network else "Anybody"
        near = "Only machines of this network can load it now"
        if self.restricted:
            who = "Those for whom it is, and none else,"
            near = "Of those for whom it is, only machines of this network can load it now"
        limit = f", which carries {self.most_bytes:,} bytes and then needs a direct way" if self.most_bytes else ""
        return {
            "world": f"{who} with the URI can load it now: others can dial this machine.",
            "relay": f"{who} with the URI can load it now, through a relay{limit}. This machine itself cannot be "
            "dialled from outside.",
            "unsure": f"{who} with the URI can load it now if this machine can be dialled from outside, which nobody "
            "has tried yet; kachery-cloud-status says more in a minute.",
            "network": f"{near}: nobody outside can dial this one, and it has no relay. kachery-cloud-status says why.",
            "machine": "Only programs on this machine can load it now: its node listens to nobody else.",
            "none": "Nobody else can load it yet, for no node answers here. Start one with: kachery-cloud-node",
        }[self.range]


@dataclass(frozen=True)
class Share:
    """What is given away.

    Attributes:
        uri: with the addresses.
        size: in bytes; of a directory, of all files in it, or of all its blocks where not all of it is here.
        title: for people.
        day: on which it was stored, or came here.
        reachable: who can load it now.
        audience: for whom it is.
    """

    uri: ContentURI
    size: int
    title: str
    reachable: Reachable
    day: datetime.date
    audience: Audience = PUBLIC

    @property
    def string(self) -> str:
        """All of it in one string; with its key, where it was shared with one."""
        return self.uri.pasteable + (f"#key={self.uri.key}" if self.uri.key else "")

    @property
    def citation(self) -> str:
        """A line for a paper or a notebook: title, day, size, and the URI that stays, without addresses."""
        return f"{self.title} ({self.day.isoformat()}). {self.size:,} bytes. {self.uri.source}"


def share(uri: str, *, label: str | None = None, encrypt: bool = False, with_key: bool = False) -> str:
    """One string that gives something away: its URI, and where to ask for it.

    Whoever gets it types `kachery-cloud get STRING`, or gives it to any function that takes a URI. It needs no quotes
    in a shell. Starts or joins the node of this machine, which serves it for as long as this process lives, or
    `kachery-cloud-node` runs. The addresses in it are those of this moment; a node that this process has just started
    is given some seconds to find out how others can reach it. Where nobody outside can, stderr says so.

    Args:
        uri: of a file or directory that is on this machine.
        label: its name for people, and of the copy; without it that of the URI, or what `list` calls it: the label that
            it was stored with, or the name of the file or folder.
        encrypt: share an encrypted copy of it, with a key that is made for that alone and stands in the string, after
            `#`. Programs of the other one use it; it is sent to nobody.
        with_key: the same for what is encrypted already. A key of this machine has to open it.

    Raises:
        ContentNotFound: it is not on this machine.
        NoDecryptionKey: `with_key`, and no key of this machine opens it.
        InvalidURI, InvalidCID ...: as `load_file` does.

    Example:
        >>> kcl.share(uri)
        'ipfs://label=session.nwb+provider=12D3KooW...=ip4:192.168.1.20:tcp:4001@bafybeih...'
    """
    check_label(label)
    check_flags(encrypt=encrypt, with_key=with_key)
    config = load_config()
    found = make_share(
        config, uri, label=label, running=lambda: settled_node(config), keyed=wants_key(uri, encrypt, with_key)
    )
    if told := sentence_once(config, found.audience):
        tell(told)
    if not found.reachable.from_outside:
        tell(found.reachable.sentence)
    return found.string


def settled_node(config: Config) -> RunningNode:
    """What the node says of itself, when it knows how it can be reached, or has had time to find out."""
    from kachery_cloud.node.connection import get_connection

    connection = get_connection(config)
    end = time.monotonic() + SETTLING
    while True:
        found = connection.status()
        may_come = found.pid == os.getpid() and (config.public or config.relays)
        if config.directory in _settled or not may_come or reachable_now(found).from_outside:
            return found
        if time.monotonic() > end:
            _settled.add(config.directory)
            return found
        time.sleep(LOOK_AGAIN)  # the node's answers come when they are asked for


def wants_key(uri: str, encrypt: bool, with_key: bool) -> bool:
    """Whether the string is to have a key.

    Raises:
        InvalidArgument: what was said does not suit the URI.
    """
    is_encrypted = parse_uri(uri).encryption is not None
    if with_key and not is_encrypted:
        raise InvalidArgument(
            f"{parse_uri(uri).locator} does not say that it is encrypted, so it has no key. To share an encrypted copy "
            "of it: kachery-cloud share --encrypt (encrypt=True)"
        )
    if encrypt and is_encrypted and not with_key:
        raise InvalidArgument(
            f"{parse_uri(uri).locator} is encrypted already. To share it with a key: kachery-cloud share --with-key "
            "(with_key=True)"
        )
    return encrypt or with_key


def make_share(
    config: Config,
    uri: str,
    *,
    label: str | None = None,
    running: Callable[[], RunningNode | None],
    keyed: bool = False,
) -> Share:
    """What is given away, for a URI of something that is here.

    Args:
        config: the settings.
        uri: of it.
        label: see `share`.
        running: asks the node, when that is needed; None where none runs.
        keyed: share an encrypted copy with a key of its own.

    Raises:
        ContentNotFound: it is not on this machine.
    """
    parsed = replace(parse_uri(uri), key=None)
    repo = repository(config)
    try:
        cid, size = _look(repo, parsed)
    except BlockNotLocal:
        raise ContentNotFound(
            f"{parsed.locator} is not on this machine, so it cannot be shared from here. Load it first, or pass on the "
            "string that you were given."
        ) from None
    beneath = repo.only_beneath(cid)
    if beneath is not None:
        raise ContentNotFound(
            f"{parsed.locator} is in the shared directory {beneath}, which this machine does not give to others. Let "
            "its owner share it, or store a copy of your own."
        )
    root = repo.inventory.get(cid) or (repo.inventory.get(parsed.root) if parsed.path else None)
    listed = root.labels[0].text if root is not None and root.labels else ""
    name = label or parsed.label or ("" if parsed.path else listed)
    if name and len(uri_notes.encoded(name)) > MAX_LABEL:
        name = ""
    audience = audience_here(repo, cid if root is None else root.cid)
    if keyed:
        parsed, size = _keyed(config, parsed, cid, name, audience)
        audience = PUBLIC
    reachable = reachable_now(running(), audience)
    shared = replace(
        parsed,
        label=parsed.label if keyed else name or None,
        providers=reachable.addresses,
        groups=uri_groups(audience),
    )
    added = time.time() if root is None else root.added
    day = datetime.datetime.fromtimestamp(added).astimezone().date()
    return Share(shared, size, shared.name or str(cid), reachable, day, audience)


def _keyed(config: Config, uri: ContentURI, cid: CID, name: str, audience: Audience) -> tuple[ContentURI, int]:
    """The URI of an encrypted copy, with its key, and its bytes.

    Raises:
        NoPermission: it is from a group in which this machine may only read.
        NoDecryptionKey: it is encrypted, and no key that opens it is here.
    """
    from kachery_cloud.encryption.recipients import recipients_for
    from kachery_cloud.encryption.records import EncryptedRoots
    from kachery_cloud.encryption.storing import link_root

    check_widening(config, audience, PUBLIC)
    if uri.encryption is not None:
        EncryptedRoots(repository(config)).note(cid)
    readers = recipients_for(config, True, audience)
    stored, identity = link_root(config, cid, () if readers is None else readers.keys, name or (uri.path or ("",))[-1])
    name = name or (uri.path[-1] if uri.path else "")
    return ContentURI(str(stored.cid), label=name or None, encryption=AGE, key=identity.text), stored.size


def running_node(config: Config) -> RunningNode | None:
    """What the node of the directory says of itself; None where none answers here. Starts none."""
    from kachery_cloud.node.connection import ask_running_node
    from kachery_cloud.node.status_messages import STATUS

    try:
        return ask_running_node(config, STATUS)
    except NodeError:  # none runs, or elsewhere; or it is starting or leaving just now
        return None


def reachable_now(found: RunningNode | None, audience: Audience = PUBLIC) -> Reachable:
    """From where a node can be loaded from, as it says of itself; by those for whom something is."""
    if found is None:
        return Reachable("none", restricted=not audience.everyone)
    node = found.node
    kinds: dict[str, list[str]] = {"public": [], "relay": [], "network": [], "machine": []}
    for address in node.addresses:
        kind = _kind(address)
        if kind and len(address) <= MAX_ADDRESS and len(kinds[kind]) < MAX_OF_A_KIND:
            kinds[kind].append(address)
    far = [*kinds["public"], *kinds["relay"], *kinds["network"]]
    return Reachable(
        _range(node, kinds),
        tuple(far or kinds["machine"]),
        _most_bytes(node, kinds["relay"]) if not kinds["public"] else 0,
        node.discovery.private_network,
        not audience.everyone,
    )


def _range(node: NodeStatus, kinds: dict[str, list[str]]) -> Range:
    tried = node.discovery.reachability.state
    if kinds["public"] and tried == "public":
        return "world"
    if kinds["relay"]:
        return "relay"
    if kinds["public"]:
        return "unsure"
    return "network" if kinds["network"] else "machine"


def _kind(address: str) -> str:
    """How an address leads here: "public", "relay", "network" or "machine"; empty where it leads nobody here."""
    from kachery_p2p.multiaddrs import split

    try:
        uri_notes.check_address(address)
        (where, host), (transport, _), *rest = split(address)
    except (InvalidAddress, ValueError):  # it has no two parts
        return ""
    if where not in HOSTS or transport != "tcp" or host is None:
        return ""
    far = reach(host)
    if ("p2p-circuit", None) in rest:
        return "relay" if far is Reach.PUBLIC else "network" if far is Reach.PRIVATE else ""
    return {Reach.PUBLIC: "public", Reach.PRIVATE: "network", Reach.LOOPBACK: "machine"}.get(far, "")


def _most_bytes(node: NodeStatus, relayed: Iterable[str]) -> int:
    """What the relays carry at most, the best of them; 0 where that has no bound."""
    slots = node.discovery.relay.relays
    bounds = [slot.bytes_per_circuit for slot in slots if any(f"/p2p/{slot.relay}/p2p-circuit" in a for a in relayed)]
    return 0 if not bounds or 0 in bounds else max(bounds)


def get(
    uri: str,
    dest: str | os.PathLike[str] | None = None,
    *,
    local_only: bool = False,
    verbose: bool = False,
    providers: Sequence[str] = (),
    timeout: float | None = None,
) -> str:
    """Load what somebody shared, file or directory, under its name, and return the path. Nothing is ever replaced.

    Args:
        uri: what `share` gave, or any other URI.
        dest: the folder to put it into, or the whole name of the copy; the current folder where None. The name comes
            from the URI, or is the label under which it is listed on this machine; where neither is a plain one, it is
            the CID.
        local_only: as for `load_file`.
        verbose: as for `load_file`.
        providers: as for `load_file`.
        timeout: as for `load_file`.

    Raises:
        FileExists: something else has that name; and what `load_file` and `load_dir` raise.

    Example:
        >>> path = kcl.get(uri, "copies/")
    """
    from kachery_cloud.load import load_dir

    request = request_of(uri, local_only=local_only, verbose=verbose, providers=providers, timeout=timeout)
    target = _target(request, dest)
    with explained("looking at", target):
        there = target.lstat() if os.path.lexists(target) else None
    if there is not None:
        # Before anything large is loaded. A file with the same bytes is no obstacle, and that shows at the end.
        info = request.info()
        if info["kind"] == "directory" or not stat.S_ISREG(there.st_mode) or there.st_size != info["size"]:
            raise FileExists(
                f"{target} exists already, and nothing is replaced. Name another destination with --dest (in Python: "
                "dest=)."
            )
    try:
        request.copy_to(target, replace=False)
    except IsADirectory:
        return load_dir(
            uri, target, local_only=local_only, verbose=verbose, providers=providers, timeout=request.timeout
        )
    return str(target)


def _target(request: Request, dest: str | os.PathLike[str] | None) -> Path:
    """Where what is got goes.

    Raises:
        FileMissing: there is no such folder.
    """
    text = os.path.expanduser(path_text(os.curdir if dest is None else dest, "dest"))
    target = Path(os.path.abspath(text))
    with explained("looking at", target):
        if target.is_dir():
            try:
                return target / request.file_name()
            except InvalidName:  # it means something to a shell or a system
                return target / request.uri.cid
        folder = target if text.endswith(("/", os.sep)) else target.parent
        is_there = folder.is_dir()
    if not is_there:
        from kachery_cloud.placing import no_folder

        raise no_folder(folder)
    return target


def _look(repo: Repo, uri: ContentURI) -> tuple[CID, int]:
    """What is here under a URI: its CID, and its size.

    Raises:
        BlockNotLocal: it is not here.
    """
    try:
        found = find_local(repo, uri)
    except IsADirectory:
        cid = resolve_local(repo, uri)
        size = Sizes(repo).folder(cid)
        return cid, _directory_size(repo, cid) if size is None else size
    return found.cid, found.size


def _directory_size(repo: Repo, cid: CID) -> int:
    """Bytes of all blocks of a directory, as its root has them."""
    from kachery_p2p.dag.pb import decode_node

    block = repo.get_block(cid.multihash) if is_local_directory(repo, cid) else None
    if block is None:
        raise BlockNotLocal(str(cid))
    return len(block) + sum(link.tsize or 0 for link in decode_node(block).links)
