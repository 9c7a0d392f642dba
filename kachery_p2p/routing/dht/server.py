"""What we answer when others ask us. Sans-IO: a message in, a message or nothing out.

As go-libp2p-kad-dht and @libp2p/kad-dht expect it: ADD_PROVIDER has no answer (one would be taken for the answer to
the next question on the stream); GET_PROVIDERS names providers and closer peers; a provider is stored only when it is
the sender itself; answers name neither the asker nor ourselves, unless we are who is sought. Every address that goes
into a store or out in an answer has passed the `DhtScope` of this DHT.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace

from kachery_p2p.errors import InvalidRecord, MalformedMessage
from kachery_p2p.peer_ids import is_peer_id
from kachery_p2p.routing.dht import limits, records
from kachery_p2p.routing.dht.addresses import DhtScope
from kachery_p2p.routing.dht.keys import kad_id
from kachery_p2p.routing.dht.messages import DhtMessage, DhtPeer, MessageType, ValueRecord
from kachery_p2p.routing.dht.providers import ProviderStore
from kachery_p2p.routing.dht.table import RoutingTable
from kachery_p2p.routing.dht.values import ValueStore


def _nobody(peer: bytes) -> Sequence[bytes]:
    return ()


def _nothing(multihash: bytes) -> bool:
    return False


class DhtServer:
    """Answers the questions of other peers.

    Args:
        table: whom we know.
        providers: who has what, as they told us.
        values: IPNS records and public keys.
        scope: which addresses belong into this DHT.
        own_addrs: our own addresses, to be told to those who seek us.
        addrs_of: addresses of a peer that we are connected to, though it may not be in the table (clients are not);
            empty for others. Kubo finds peers that are no servers by this.
        provides: whether we announce this multihash ourselves; then we are among its providers.
    """

    def __init__(
        self,
        table: RoutingTable,
        providers: ProviderStore,
        values: ValueStore,
        scope: DhtScope,
        *,
        own_addrs: Callable[[], Sequence[bytes]],
        addrs_of: Callable[[bytes], Sequence[bytes]] = _nobody,
        provides: Callable[[bytes], bool] = _nothing,
        k: int = limits.K,
    ) -> None:
        self._table = table
        self._local = table.local
        self._providers = providers
        self._values = values
        self._scope = scope
        self._own_addrs = own_addrs
        self._addrs_of = addrs_of
        self._provides = provides
        self._k = k
        #: Questions answered or taken in, by type.
        self.counts: dict[str, int] = {}
        self._handlers = {
            MessageType.PUT_VALUE: self._put_value,
            MessageType.GET_VALUE: self._get_value,
            MessageType.ADD_PROVIDER: self._add_provider,
            MessageType.GET_PROVIDERS: self._get_providers,
            MessageType.FIND_NODE: self._find_node,
            MessageType.PING: self._ping,
        }

    def handle(self, message: DhtMessage, remote: DhtPeer, now_wall: float) -> DhtMessage | None:
        """Answer one message.

        Args:
            message: what came.
            remote: the sender, with the addresses that we know of it.
            now_wall: seconds since the epoch; what is stored outlives the process.

        Returns:
            The answer, or None where the protocol has none.

        Raises:
            MalformedMessage: the message makes no sense or is refused; the stream should be reset, as Kubo does.
        """
        answer = self._handlers[message.type](message, remote, now_wall)
        name = message.type.name.lower()
        self.counts[name] = self.counts.get(name, 0) + 1
        return answer

    def _closer(self, key: bytes, remote: DhtPeer) -> list[DhtPeer]:
        """The k peers nearest to a key, without the asker."""
        infos = self._table.nearest_infos(kad_id(key), self._k + 1)
        return [info for info in infos if info.id != remote.id][: self._k]

    def _ping(self, message: DhtMessage, remote: DhtPeer, now_wall: float) -> DhtMessage:
        return DhtMessage(MessageType.PING, message.key)

    def _find_node(self, message: DhtMessage, remote: DhtPeer, now_wall: float) -> DhtMessage:
        key = _checked(message.key, limits.MAX_VALUE_KEY_SIZE)
        if key == self._local:
            own = DhtPeer(key, self._scope.usable(self._own_addrs()))
            return DhtMessage(MessageType.FIND_NODE, closer=(own,) if own.addrs else ())
        closer = self._closer(key, remote)
        if key != remote.id and is_peer_id(key) and (not closer or closer[0].id != key):
            addrs = self._scope.usable(self._addrs_of(key))
            if addrs:
                closer.insert(0, DhtPeer(key, addrs))
        return DhtMessage(MessageType.FIND_NODE, closer=tuple(closer))

    # --- providers -------------------------------------------------------------------------------------------------

    def _get_providers(self, message: DhtMessage, remote: DhtPeer, now_wall: float) -> DhtMessage:
        key = _checked(message.key, limits.MAX_KEY_SIZE)
        providers = self._providers.get(key, now_wall)
        if self._provides(key):
            own = self._scope.usable(self._own_addrs())
            if own:
                providers.insert(0, DhtPeer(self._local, own))
        return DhtMessage(
            MessageType.GET_PROVIDERS, key, closer=tuple(self._closer(key, remote)), providers=tuple(providers)
        )

    def _add_provider(self, message: DhtMessage, remote: DhtPeer, now_wall: float) -> None:
        key = _checked(message.key, limits.MAX_KEY_SIZE)
        for provider in message.providers:
            # Nobody can be announced by another: such records are passed over, as in Kubo.
            if provider.id == remote.id:
                addrs = self._scope.usable(provider.addrs) or self._scope.usable(remote.addrs)
                if addrs:
                    self._providers.add(key, DhtPeer(remote.id, addrs), now_wall)
                return

    # --- values ----------------------------------------------------------------------------------------------------

    def _get_value(self, message: DhtMessage, remote: DhtPeer, now_wall: float) -> DhtMessage:
        key = _checked(message.key, limits.MAX_VALUE_KEY_SIZE)
        closer = tuple(self._closer(key, remote))
        return DhtMessage(MessageType.GET_VALUE, key, self._held(key, now_wall), closer)

    def _held(self, key: bytes, now_wall: float) -> ValueRecord | None:
        """The record of a key that is here. One that has expired since it came is not."""
        held = self._values.get(key, now_wall)
        if held is not None:
            try:
                records.validate(key, held.value, now_wall)
            except InvalidRecord:
                return None
        return held

    def _put_value(self, message: DhtMessage, remote: DhtPeer, now_wall: float) -> DhtMessage:
        key = _checked(message.key, limits.MAX_VALUE_KEY_SIZE)
        record = message.record
        if record is None or record.key != key:
            raise MalformedMessage("A PUT_VALUE came without a record for its key.")
        try:
            records.validate(key, record.value, now_wall)
            held = self._held(key, now_wall)
            if held is not None and records.select(key, [record.value, held.value]) != 0:
                raise MalformedMessage("A PUT_VALUE came with an older record than the one that is here.")
        except InvalidRecord as error:
            raise MalformedMessage(f"A PUT_VALUE came with a record that is refused: {error}") from error
        received = _rfc3339(now_wall)
        self._values.put(ValueRecord(key, record.value, received), remote.id, now_wall)
        # The sender compares what comes back with what it sent.
        return DhtMessage(MessageType.PUT_VALUE, key, replace(record, received=received))


def _checked(key: bytes, most: int) -> bytes:
    if not 0 < len(key) <= most:
        raise MalformedMessage(f"A DHT message has a key of {len(key)} bytes; it must have 1 to {most}.")
    return key


def _rfc3339(now_wall: float) -> str:
    return datetime.datetime.fromtimestamp(now_wall, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
