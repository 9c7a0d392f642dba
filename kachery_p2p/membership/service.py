"""Groups on the network: lists and secrets go from member to member, machines join and leave.

Two members that meet compare what they have, and again when something has changed here, and now and then. What is new
is passed on to the other members that are connected. See `protocol` for what is said, and to whom.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from kachery_p2p.access.audience import OWN
from kachery_p2p.errors import (
    DialError,
    GroupError,
    InvitationRefused,
    KacheryError,
    ProtocolNotSupported,
    StreamError,
)
from kachery_p2p.membership import limits
from kachery_p2p.membership.doors import Doors
from kachery_p2p.membership.edits import check_label
from kachery_p2p.membership.held import Heard, HeldGroup
from kachery_p2p.membership.ids import NONCE_BYTES, TAG_BYTES
from kachery_p2p.membership.invitations import Invitation, parse_invitation
from kachery_p2p.membership.keeper import Dial, MemberKeeper
from kachery_p2p.membership.lists import Role
from kachery_p2p.membership.messages import receive_answer, receive_opening, send, why_refused
from kachery_p2p.membership.protocol import (
    PROTOCOL,
    Answer,
    Opening,
    Part,
    fitting,
)
from kachery_p2p.transport.limits import DIAL_TIMEOUT
from kachery_p2p.waking import Flag

if TYPE_CHECKING:
    from kachery_p2p.membership.groups import Groups
    from kachery_p2p.transport.host import Host
    from kachery_p2p.transport.stream import Stream

log = logging.getLogger("kachery_p2p.membership")

T = TypeVar("T")


class GroupService:
    """Speaks for the groups of one node.

    Args:
        host: of the node.
        groups: of the node.
        dial: gets to a peer at some addresses, or wherever else it is known to be, within so many seconds.
        rng: chooses members of large groups.

    Attributes:
        doors: who is served at a time.
    """

    def __init__(self, host: Host, groups: Groups, dial: Dial, rng: random.Random | None = None) -> None:
        self._host = host
        self._groups = groups
        self._dial = dial
        #: The changes that were passed on.
        self._passed_on = groups.changes
        self._wanted: dict[str, None] = {}
        self._wanted_came = Flag()
        self._busy: set[str] = set()
        self._met: set[str] = set()
        self._told: set[tuple[str, str, int]] = set()
        self.doors = Doors(groups)
        self._sending = trio.CapacityLimiter(limits.MAX_OWN_EXCHANGES)
        self._work = trio.CapacityLimiter(2)
        self._keeper = MemberKeeper(host, groups, dial, rng or random.Random())
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. The host must be running."""
        # Always, with groups or without: that it is served tells nothing.
        self._host.set_handler(PROTOCOL, self._serve)
        unsubscribe = [
            self._host.on_identified(self._on_identified),
            self._host.on_disconnected(self._on_disconnected),
        ]
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._exchange_wanted)
                nursery.start_soon(self._look_at_files)
                nursery.start_soon(self._keeper.run)
                nursery.start_soon(self._again)
                for peer in self._host.connected():
                    self._on_identified(peer)
                task_status.started()
        finally:
            self._nursery = None
            self._host.remove_handler(PROTOCOL)
            for each in unsubscribe:
                each()

    # --- what happens ----------------------------------------------------------------------------------------------

    def _on_identified(self, peer: str) -> None:
        if not self._concerns(peer) or PROTOCOL not in self._host.protocols_of(peer):
            return
        self._groups.addresses.seen(peer, [*self._host.remote_addresses_of(peer), *self._host.addresses_of(peer)])
        if peer not in self._met:
            self._met.add(peer)
            self._want([peer])
            self._keeper.wake()

    def _on_disconnected(self, peer: str) -> None:
        self._met.discard(peer)
        if self._concerns(peer):
            self._keeper.wake()

    def _concerns(self, peer: str) -> bool:
        return bool(self._groups.groups_of(peer) - {OWN}) or bool(self._groups.former_groups_of(peer))

    def _want(self, peers: Iterable[str]) -> None:
        self._wanted.update(dict.fromkeys(peers))
        self._wanted_came.set()

    def changed(self, *, heard_from: str = "") -> None:
        """Something about groups is other than it was: say so here, and to the members that are connected.

        Args:
            heard_from: the member that has told it, and need not be told; unless there is more that is new.
        """
        if self._groups.changes > self._passed_on + 1:
            heard_from = ""
        self._passed_on = self._groups.changes
        self._groups.emit()
        connected = set(self._host.connected())
        self._want(peer for peer in connected if peer != heard_from and self._concerns(peer))
        self._keeper.wake()

    async def refresh(self) -> None:
        """Another process has changed the files: read them."""
        await self._in_thread(self._groups.reload)
        self._say_changes()

    def _say_changes(self) -> None:
        if self._groups.changes != self._passed_on:
            self.changed()

    async def _look_at_files(self) -> None:
        """Who changes the files says so; this is for who cannot."""
        while True:
            try:
                await self.refresh()
                for group in self._groups.own_groups():
                    await self._in_thread(self._groups.tidy, group)
                self._say_changes()
                await self._in_thread(self._groups.save_addresses)
            except KacheryError as error:
                log.warning("groups: %s", error)
            await trio.sleep(limits.LOOK_AGAIN)

    async def _again(self) -> None:
        while True:
            await trio.sleep(limits.SYNC_AGAIN)
            self._want(peer for peer in self._host.connected() if self._concerns(peer))

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(partial(function, *args), limiter=self._work)

    # --- comparing with a member -----------------------------------------------------------------------------------

    async def _exchange_wanted(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._wanted_came.take()
                for peer in [peer for peer in self._wanted if peer not in self._busy]:
                    del self._wanted[peer]
                    self._busy.add(peer)
                    nursery.start_soon(self._exchange_quietly, peer)

    async def _exchange_quietly(self, peer: str) -> None:
        try:
            async with self._sending:
                await self.exchange(peer)
        except KacheryError as error:
            log.debug("comparing groups with %s: %s", peer, error)
        finally:
            self._busy.discard(peer)
            if peer in self._wanted:
                self._wanted_came.set()

    async def exchange(self, peer: str) -> None:
        """Compare all groups that a connected peer is in with it, and give and take what is missing.

        Raises:
            StreamError: it does not answer, or what it says is no message.
        """
        await self._tell_removed(peer)
        groups = self._shared(peer)
        if not groups:
            return
        nonce = secrets.token_bytes(NONCE_BYTES)
        ours = {held.group: held.tag(nonce, self._host.peer_id, peer) for held in groups}
        theirs = {held.tag(nonce, peer, self._host.peer_id): held.group for held in groups}
        parts = [Part(ours[held.group], held.state.digests, frozenset(held.secrets)) for held in groups]
        with trio.move_on_after(limits.EXCHANGE_TIMEOUT):
            async with await self._host.open_stream(peer, (PROTOCOL,)) as stream:
                await send(stream, Opening(nonce, fitting(parts, limits.MAX_OPENING)).encode())
                answer = await receive_answer(stream)
                said = {theirs[part.tag]: part for part in answer.parts if part.tag in theirs}
                for group, part in said.items():
                    await self._take(peer, group, part)
                await send(stream, Answer(parts=self._missing_there(peer, ours, said)).encode())
                # The other side ends the stream when it has all of it.
                with trio.move_on_after(limits.MESSAGE_TIMEOUT):
                    await stream.read(1)

    def _shared(self, peer: str) -> list[HeldGroup]:
        found = [self._groups.get(group) for group in sorted(self._groups.groups_of(peer) - {OWN})]
        return [held for held in found if held is not None]

    def _missing_there(self, peer: str, ours: dict[str, bytes], said: dict[str, Part]) -> tuple[Part, ...]:
        parts: list[Part] = []
        for held in self._shared(peer):  # as they are now: what has just come may have removed the peer
            if held.group in ours:
                part = self._news(held, ours[held.group], said.get(held.group))
                if part.lists or part.secrets or part.places:
                    parts.append(part)
        return fitting(parts)

    async def _take(self, peer: str, group: str, part: Part) -> None:
        """Take what a member says of a group. What is wrong with it harms nothing but it."""
        try:
            if part.notice:
                if await self._in_thread(self._groups.noticed, group, part.notice):
                    log.warning("this machine was removed from the group %s, says %s", group, peer)
                    self.changed()
            elif part.lists or part.secrets:
                heard = await self._in_thread(self._groups.absorb, group, part.lists, part.secrets)
                if heard is not Heard.NOTHING:
                    log.info("the group %s has changed, says %s", group, peer)
                    self.changed(heard_from=peer if heard is Heard.NEWS else "")
            if group in self._groups.groups_of(peer):
                self._hear_places(group, part)
        except KacheryError as error:
            log.warning("what %s says about the group %s is not taken: %s", peer, group, error)
        self._say_changes()

    def _hear_places(self, group: str, part: Part) -> None:
        members = self._groups.members_of(group)
        for member, addresses in part.places:
            if member in members and addresses:
                if not self._groups.addresses_of(member) and member not in self._host.connected():
                    self._keeper.wake()  # here is a way to one that could not be reached
                self._groups.addresses.heard(member, addresses)

    async def _tell_removed(self, peer: str) -> None:
        """Tell a peer that it was removed, where this machine is one to say so; once."""
        for group in self._groups.former_groups_of(peer):
            held = self._groups.get(group)
            if held is None:
                continue
            about = (group, peer, held.state.view.floors.get(peer, 0))
            notice = self._groups.notice_for(group, peer)
            if notice is None or about in self._told:
                continue
            nonce = secrets.token_bytes(NONCE_BYTES)
            tag = held.tag(nonce, self._host.peer_id, peer)
            with trio.move_on_after(limits.MESSAGE_TIMEOUT):
                async with await self._host.open_stream(peer, (PROTOCOL,)) as stream:
                    await send(stream, Opening(nonce, removed=Part(tag, notice=notice)).encode())
                    await receive_answer(stream)
                    self._told.add(about)

    # --- joining and leaving ---------------------------------------------------------------------------------------

    async def join_by(self, text: str, label: str, timeout: float) -> str:
        """Use an invitation as it was given; the ID of the group. See `join`.

        Raises:
            InvalidInvitation: it is none.
            GroupError: it is one of this machine's own, or a machine cannot be called that.
        """
        invitation = parse_invitation(text)
        check_label(label)
        if invitation.inviter == self._host.peer_id:
            raise GroupError("This machine itself has made the invitation. It is for another one: join there.")
        return (await self.join(invitation, label, timeout)).group

    async def join(self, invitation: Invitation, label: str, timeout: float) -> HeldGroup:
        """Use an invitation.

        Raises:
            DialError: the inviter cannot be reached.
            InvitationRefused: it does not let this machine in; says why, and what to do.
        """
        inviter = invitation.inviter
        try:
            await self._dial(inviter, invitation.addresses, timeout)
            stream = await self._host.open_stream(inviter, (PROTOCOL,))
        except ProtocolNotSupported as error:
            raise InvitationRefused(
                f"The inviter, {inviter}, runs a version that knows no groups. It has to be updated."
            ) from error
        except (DialError, StreamError) as error:
            raise DialError(
                f"The inviter, {inviter}, cannot be reached: {error} The invitation is not used up. Have a node run "
                "there (kachery-cloud-node), and try again; where it has moved since, ask for a new invitation."
            ) from error
        answer = Answer("refused")
        with trio.move_on_after(timeout) as waited:
            async with stream:
                nonce = secrets.token_bytes(NONCE_BYTES)
                await send(stream, Opening(nonce, token=invitation.token, label=label).encode())
                answer = await receive_answer(stream)
        if waited.cancelled_caught:
            raise DialError(f"The inviter, {inviter}, did not answer within {timeout:g} seconds. Try again.")
        if answer.refusal or not answer.parts:
            raise InvitationRefused(why_refused(answer.refusal))
        part = answer.parts[0]
        held = await self._in_thread(self._groups.joined, invitation, part.lists, part.secrets)
        self._groups.addresses.seen(inviter, [*self._host.remote_addresses_of(inviter), *invitation.addresses])
        self._hear_places(held.group, part)
        self._met.add(inviter)
        self.changed(heard_from=inviter)
        return held

    async def leave(self, group: str, timeout: float) -> bool:
        """Leave a group, and tell an owner; whether one has heard it, or nobody has to.

        Raises:
            GroupError: this machine is the last owner, and there are other members.
        """
        before = self._groups.get(group)
        held = await self._in_thread(self._groups.resign, group)
        owners = [peer for peer in held.state.view.owners if peer != self._host.peer_id]
        told = (before is not None and before.removed) or not owners
        if not told:
            with trio.move_on_after(timeout):
                # Who is connected answers at once.
                connected = set(self._host.connected())
                for peer in sorted(owners, key=lambda peer: peer not in connected):
                    told = await self._tell_leaving(held, peer) or told
                    if told:
                        break
        await self._in_thread(self._groups.forget, group)
        self.changed()
        return told

    async def _tell_leaving(self, held: HeldGroup, peer: str) -> bool:
        nonce = secrets.token_bytes(NONCE_BYTES)
        tag = held.tag(nonce, self._host.peer_id, peer)
        resigned = held.state.view.role_of(self._host.peer_id) is Role.REMOVED
        try:
            await self._dial(peer, self._groups.addresses_of(peer), DIAL_TIMEOUT)
            async with await self._host.open_stream(peer, (PROTOCOL,)) as stream:
                if resigned:  # our own list says it, and whoever has it can pass it on
                    await send(stream, Opening(nonce, (Part(tag, held.state.digests),)).encode())
                    await receive_answer(stream)
                    lists = tuple(each.sealed for each in held.state.spread.values())
                    await send(stream, Answer(parts=(Part(tag, lists=lists),)).encode())
                else:
                    await send(stream, Opening(nonce, leaving=tag).encode())
                    await receive_answer(stream)
                await stream.read(1)
        except KacheryError as error:
            log.info("leaving the group %s: %s", held.name, error)
            return False
        return True

    # --- being asked -----------------------------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        with self.doors.exchange(stream) as may:
            if not may:
                return
            with trio.move_on_after(limits.EXCHANGE_TIMEOUT) as waited:
                await self._answer(stream)
            if waited.cancelled_caught:
                stream.abort("it takes too long")

    async def _answer(self, stream: Stream) -> None:
        peer = stream.peer
        opening = await receive_opening(stream)
        if opening.token is not None:
            await send(stream, (await self._let_in(peer, opening)).encode())
            return
        if opening.leaving is not None or opening.removed is not None:
            await send(stream, b"")
            await stream.close()
            await self._hear(peer, opening)
            return
        # One look-up decides whether anything is said. Where it is nothing, no tag is looked at before the stream has
        # ended, so how long that takes does not depend on what was named.
        said: dict[str, Part] = {}
        if self._concerns(peer):
            said = self._said(peer, opening)
        await send(stream, Answer(parts=self._answers(peer, opening, said)).encode())
        known = bool(self._groups.groups_of(peer))
        with self.doors.last_message(stream, known=known) as may:
            if not may:
                return
            last = await receive_answer(stream)
        if not known:
            await stream.close()
        named = self._named(peer, opening.nonce, [part.tag for part in last.parts]) if last.parts else {}
        for part in last.parts:
            if part.tag in named:
                await self._take(peer, named[part.tag], replace(part, notice=b""))

    def _said(self, peer: str, opening: Opening) -> dict[str, Part]:
        """What a member or former member has said, by group."""
        tags = {part.tag: part for part in opening.parts}
        found: dict[str, Part] = {}
        for group in (self._groups.groups_of(peer) - {OWN}) | self._groups.former_groups_of(peer):
            held = self._groups.get(group)
            if held is not None:
                part = tags.get(held.tag(opening.nonce, peer, self._host.peer_id))
                if part is not None:
                    found[group] = part
        return found

    def _answers(self, peer: str, opening: Opening, said: dict[str, Part]) -> tuple[Part, ...]:
        parts: list[Part] = []
        for group, part in said.items():
            held = self._groups.get(group)
            if held is None:
                continue
            tag = held.tag(opening.nonce, self._host.peer_id, peer)
            if group in self._groups.groups_of(peer):
                parts.append(self._news(held, tag, part))
            elif (notice := self._groups.notice_for(group, peer)) is not None:
                parts.append(Part(tag, notice=notice))
        return fitting(parts)

    def _named(self, peer: str, nonce: bytes, tags: Sequence[bytes]) -> dict[bytes, str]:
        """Which of all groups some tags name, whoever says them."""
        wanted = set(tags)
        found: dict[bytes, str] = {}
        for group in self._groups.own_groups():
            held = self._groups.get(group)
            if held is not None and (tag := held.tag(nonce, peer, self._host.peer_id)) in wanted:
                found[tag] = group
        return found

    async def _let_in(self, peer: str, opening: Opening) -> Answer:
        if opening.token is None or not self._groups.knows_invitation(opening.token):
            return Answer()
        try:
            held = await self._in_thread(self._groups.redeem, opening.token, peer, opening.label)
        except InvitationRefused as error:
            return Answer(error.args[0])
        except KacheryError as error:
            log.warning("%s cannot join: %s", peer, error)
            return Answer("refused")
        if held is None:
            return Answer()
        log.info("%s has joined the group %s", peer, held.name)
        self._groups.addresses.seen(peer, [*self._host.remote_addresses_of(peer), *self._host.addresses_of(peer)])
        self._met.add(peer)
        self.changed(heard_from=peer)
        return Answer(parts=(self._news(held, bytes(TAG_BYTES), None),))

    async def _hear(self, peer: str, opening: Opening) -> None:
        """A member leaves, or says that this machine was removed. Nothing is answered."""
        if opening.removed is not None:
            named = self._named(peer, opening.nonce, [opening.removed.tag])
            for group in named.values():
                await self._take(peer, group, Part(opening.removed.tag, notice=opening.removed.notice))
        if opening.leaving is not None and self._groups.groups_of(peer) - {OWN}:
            for group in self._named(peer, opening.nonce, [opening.leaving]).values():
                try:
                    if await self._in_thread(self._groups.left, group, peer):
                        log.info("%s has left the group %s", peer, group)
                        self.changed()
                except KacheryError as error:
                    log.warning("%s leaves the group %s: %s", peer, group, error)

    def _news(self, held: HeldGroup, tag: bytes, part: Part | None) -> Part:
        """What somebody that has said `part` of a group does not have of it."""
        theirs = part if part is not None else Part(tag)
        return Part(
            tag,
            held.state.digests,
            frozenset(held.secrets),
            tuple(each.sealed for each in held.state.spread.values() if each.digest not in theirs.hashes),
            tuple(pair for committed, pair in held.secrets.items() if committed not in theirs.commitments),
            places=tuple(self._groups.places(held.group)),
        )
