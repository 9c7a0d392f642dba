"""Registering this machine with a lab's node: it becomes the client of whoever signs in there and says so.

This machine asks, with a request that its key signs, and shows a link and a code. Somebody follows the link, in any
browser, signs in at the node and registers the machine; it looks again and again what has become of that. What was
asked for is kept, so that whoever interrupts the waiting can take it up again. In the end the node has given out a
token: it becomes a pinning service of the settings, where all that is stored is pinned, and the node one of the peers.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from kachery_cloud.errors import ConfigError, InvalidAddress, KacheryError, SignInError
from kachery_cloud.ownership.archive import remember
from kachery_cloud.ownership.claims import RANDOM_BYTES, Malformed, from_base64url, to_base64url
from kachery_cloud.ownership.kept import Kept, keep_proof
from kachery_cloud.ownership.lab_api import LabAPI, Refused, Unreachable, in_the_clear, node_url
from kachery_cloud.ownership.labs import Lab, keep_lab, known_labs
from kachery_cloud.ownership.openid import discover, fetch_keys
from kachery_cloud.ownership.proofs import make_proof, new_nonce
from kachery_cloud.ownership.sign_in import check_own
from kachery_p2p.text import printable, shortened
from kachery_p2p.urls import BadURL, base_url

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.repo.keys import NodeKey

#: Seconds between two looks: first, and at the most; each pause is longer than the one before by this factor.
FIRST_PAUSE, LONGEST_PAUSE, SLOWER = 0.5, 5.0, 1.4
#: Seconds without an answer after which waiting ends; the node may be started anew meanwhile.
PATIENCE = 120.0
#: Characters of what a machine is called.
MAX_LABEL = 100
#: Addresses of a node that go into the settings: a home or lab network, a public one, and one of IPv6.
MAX_PEERS = 3


class RegistrationFront(Protocol):
    """Where somebody is shown a link and a code."""

    def show_registration(self, url: str, code: str, node: str) -> None:
        """Show where to register this machine."""
        ...

    def say(self, text: str) -> None:
        """Say a sentence."""
        ...


@dataclass(frozen=True)
class Registered:
    """What this machine is at a lab's node.

    Attributes:
        url: of the node.
        lab: what is known of it.
        new: whether it has just become that.
        proof: whether the sign-in at the node gave a proof of ownership, which is kept.
    """

    url: str
    lab: Lab
    new: bool
    proof: bool = False


def register(
    config: Config,
    identity: NodeKey,
    url: str,
    front: RegistrationFront,
    *,
    label: str = "",
    pause: Callable[[float], None] = time.sleep,
) -> Registered:
    """Register this machine, or say that it is.

    Args:
        config: the settings.
        identity: of this machine.
        url: of the lab's node.
        front: how it speaks to the user.
        label: what this machine is to be called there; its host name by default.
        pause: waits for so many seconds.

    Raises:
        ConfigError: `url` or `label` makes no sense.
        SignInError: the node cannot be reached, or nobody has registered this machine.
    """
    url, label = node_url(url), check_label(label)
    api = LabAPI(url, identity)
    known = known_labs(config.directory).get(url)
    if known is not None and known.state == "registered":
        if _still(api, known, config, front):
            return Registered(url, _gateway_noted(config.directory, api, known), new=False)
        forget_locally(config.directory, url, known)
        known = None
    about = api.about()
    if in_the_clear(url):
        front.say(f"{url} is not encrypted: others in the network can read what this machine sends there.")
    if known is not None and (label not in ("", known.label) or not _waits(api, known)):
        known = None
    lab = known or _begin(api, about, identity, label or default_label())
    keep_lab(config.directory, url, lab)
    front.show_registration(lab.link, lab.code, lab.name)
    try:
        answer = _wait(api, lab, pause)
    except Refused:
        keep_lab(config.directory, url, None)
        raise
    return _finish(config, identity, url, lab, about, answer, front)


def _still(api: LabAPI, known: Lab, config: Config, front: RegistrationFront) -> bool:
    """Whether the node still takes this machine for what it was; where it does not answer, nothing is changed."""
    try:
        api.signed("GET", "/me")
    except Refused as refusal:
        if refusal.status in (401, 403) and refusal.reason != "CLOCK":
            front.say(f"{known.name} does not know this machine any more, so it is registered anew.")
            return False
        raise
    except Unreachable as error:
        front.say(f"{error} What is said here is what was so before.")
    return True


def _begin(api: LabAPI, about: dict[str, Any], identity: NodeKey, label: str) -> Lab:
    claims, nonce = new_nonce(identity, secrets.token_bytes(RANDOM_BYTES))
    asked: dict[str, Any] = {"label": label}
    proofs = about.get("sign_in") == "openid"
    if proofs:
        asked["nonce"] = nonce
    answer = api.signed("POST", "/registrations", asked)
    texts = {name: answer.get(name) for name in ("id", "secret", "url")}
    if not all(isinstance(each, str) for each in texts.values()):
        raise SignInError(f"{api.url} does not answer as a lab's node does. Ask whoever runs it for its URL.")
    link, code = str(texts["url"]), answer.get("code")
    if urlsplit(link).scheme not in ("http", "https") or not link.isprintable() or not re.fullmatch(r"\S+", link):
        raise SignInError(f"{api.url} gives a link that is none.")
    return Lab(
        state="waiting",
        name=shortened(printable(about["name"]), MAX_LABEL),
        peer_id=about["peer_id"],
        label=label,
        id=str(texts["id"]),
        secret=str(texts["secret"]),
        link=link,
        code=printable(code)[:20] if isinstance(code, str) else "",
        claims=to_base64url(claims) if proofs else "",
    )


def _waits(api: LabAPI, lab: Lab) -> bool:
    """Whether a registration that was begun can be taken up again: somebody may have registered it already."""
    try:
        return _look(api, lab).get("state") in ("waiting", "registered")
    except Refused:
        return False


def _look(api: LabAPI, lab: Lab) -> dict[str, Any]:
    return api.with_secret("GET", f"/registrations/{lab.id}", lab.secret)


def _wait(api: LabAPI, lab: Lab, pause: Callable[[float], None]) -> dict[str, Any]:
    """What became of a registration.

    Raises:
        Refused: nobody wants this machine, or nobody followed the link in time.
        SignInError: the node does not answer any more.
    """
    seconds, silent = FIRST_PAUSE, 0.0
    while True:
        try:
            answer, silent = _look(api, lab), 0.0
        except Unreachable as error:
            silent += seconds
            if silent > PATIENCE:
                raise SignInError(f"{error} The registration stands; run the same command again later.") from None
            answer = {"state": "waiting"}
        except Refused as refusal:
            if refusal.status not in (429, 503):
                raise
            seconds = max(seconds, min(refusal.retry_after or LONGEST_PAUSE, 60.0))
            answer = {"state": "waiting"}
        state = answer.get("state")
        if state == "registered":
            return answer
        if state == "refused":
            raise Refused(f"Somebody refused to register this machine with {lab.name}.", 403, "REFUSED")
        if state != "waiting":
            raise Refused(f"Nobody followed the link in time. To get another one: {_again(api.url)}", 410, "EXPIRED")
        pause(seconds)
        seconds = min(seconds * SLOWER, LONGEST_PAUSE)


def _finish(
    config: Config,
    identity: NodeKey,
    url: str,
    lab: Lab,
    about: dict[str, Any],
    answer: dict[str, Any],
    front: RegistrationFront,
) -> Registered:
    """Keep what the node gave: the token, itself as a pinning service and a peer, and the proof."""
    from kachery_cloud.settings.pin_services import check_token, keep_service
    from kachery_cloud.settings.pin_tokens import keep_token

    token, owner = answer.get("token"), answer.get("owner")
    if not isinstance(token, str) or not token or not isinstance(owner, dict):
        raise SignInError(f"{url} registered this machine, but gave it no token. Run it again: {_again(url)}")
    check_token(token, f"of {url}")
    service = _service_name(config, url, lab.name)
    keep_token(config.directory, service, token)
    keep_service(config.directory, service, {"url": url, "kind": "pinning", "default": True})
    peers = _add_peers(config.directory, url, about)
    done = replace(
        lab,
        state="registered",
        secret="",
        link="",
        code="",
        owner_name=_text(owner.get("name")),
        owner_email=_text(owner.get("email")),
        service=service,
        gateway=_gateway(about),
        peers=peers,
    )
    keep_lab(config.directory, url, done)
    proof = _keep_proof(config.directory, identity, lab, about.get("issuer"), answer.get("proof"), front)
    return Registered(url, done, new=True, proof=proof)


def _gateway(about: dict[str, Any]) -> str:
    """The URL of the gateway that a node names; empty where it names none that can be followed."""
    try:
        return base_url(str(about.get("gateway") or "")).rstrip("/")
    except BadURL:
        return ""


def _gateway_noted(directory: Path, api: LabAPI, known: Lab) -> Lab:
    """A lab as it is known, and with the gateway that it has now; as it was where it does not answer."""
    try:
        now = replace(known, gateway=_gateway(api.about()))
    except SignInError:
        return known
    if now != known:
        keep_lab(directory, api.url, now)
    return now


def _service_name(config: Config, url: str, lab: str) -> str:
    """What the pinning service is called in the settings: as the lab, unless another one is."""
    taken = {each.name: each.url for each in config.pin_services}
    for name, there in taken.items():
        if there == url:
            return name
    name = re.sub(r"[^a-z0-9]+", "-", lab.lower()).strip("-")[:50] or "lab"
    number = 2
    found = name
    while found in taken or found in ("filebase", "filebase-rpc"):
        found, number = f"{name}-{number}", number + 1
    return found


def _add_peers(directory: Path, url: str, about: dict[str, Any]) -> tuple[str, ...]:
    """Write the node's addresses into the setting `peers`; those that are new there."""
    from kachery_cloud.settings.config import write_setting
    from kachery_cloud.settings.config_file import CONFIG_NAME, read_config_file
    from kachery_cloud.settings.values import parse_addresses
    from kachery_cloud.uri import check_peer_address

    here = urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
    ending = f"/p2p/{about['peer_id']}"
    found: list[str] = []
    for each in about.get("addresses") or ():
        loopback = isinstance(each, str) and each.startswith(("/ip4/127.", "/ip6/::1/"))
        if isinstance(each, str) and each.endswith(ending) and (here or not loopback):
            try:
                found.append(check_peer_address(each, url))
            except InvalidAddress:
                continue
    path = directory / CONFIG_NAME
    stored = read_config_file(path).get("peers") or ()
    before = list(parse_addresses(list(stored) if isinstance(stored, list) else stored, f"'peers' in {path}"))
    new = tuple(each for each in found[:MAX_PEERS] if each not in before)
    if new:
        write_setting(directory, "peers", [*before, *new])
    return new


def _keep_proof(
    directory: Path, identity: NodeKey, lab: Lab, issuer: Any, given: Any, front: RegistrationFront
) -> bool:
    """Keep the proof that the sign-in at the node gave, if it gave one.

    The node hands over the ID token. The keys that it is checked with come from the issuer itself.
    """
    token = given.get("id_token") if isinstance(given, dict) else None
    if not isinstance(token, str) or not lab.claims:
        return False
    try:
        proof = make_proof(identity, from_base64url(lab.claims, "claims"), token, now=time.time())
        audience = proof.claims.get("aud")
        if not isinstance(issuer, str) or not isinstance(audience, str):
            raise Malformed("its ID token is for several applications, or the node does not name its provider")
        keys = fetch_keys(discover(issuer), (audience,))
        kept = Kept(proof, keys)
        check_own(kept, identity)
        remember(directory, keys)
        keep_proof(directory, kept)
    except (Malformed, KacheryError) as error:
        front.say(f"The proof of ownership that {lab.name} gave is not kept: {error}")
        return False
    return True


# --- leaving ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forgotten:
    """What became of leaving a lab's node.

    Attributes:
        url: of the node.
        name: of the lab.
        told: whether the node was told; False where it could not be reached.
    """

    url: str
    name: str
    told: bool


def forget(config: Config, identity: NodeKey, url: str) -> Forgotten:
    """Leave a lab's node: it forgets this client, and this machine the token, the pinning service and the peer.

    What is pinned there stays; its owner can see and remove it.

    Raises:
        ConfigError: this machine is not registered there.
    """
    url = node_url(url)
    labs = known_labs(config.directory)
    lab = labs.get(url)
    if lab is None:
        named = ", ".join(labs) or "none"
        raise ConfigError(f"This machine is not registered with {url}. It is registered with: {named}.")
    told = True
    try:
        if lab.state == "registered":
            LabAPI(url, identity).signed("DELETE", f"/clients/{identity.peer_id}")
    except Refused as refusal:
        told = refusal.status in (401, 403, 404)  # it does not know this client any more
    except SignInError:
        told = False
    forget_locally(config.directory, url, lab)
    return Forgotten(url, lab.name, told)


def forget_locally(directory: Path, url: str, lab: Lab) -> None:
    """Take out what registering wrote; settings that the user has changed since stay."""
    from kachery_cloud.settings.config import write_setting
    from kachery_cloud.settings.config_file import CONFIG_NAME, read_config_file
    from kachery_cloud.settings.pin_services import keep_service, stored_entry
    from kachery_cloud.settings.pin_tokens import keep_token

    entry = stored_entry(directory, lab.service) if lab.service else None
    if entry is not None and entry.get("url") == url:
        keep_service(directory, lab.service, None)
        keep_token(directory, lab.service, None)
    stored = read_config_file(directory / CONFIG_NAME).get("peers")
    if lab.peers and isinstance(stored, list):
        write_setting(directory, "peers", [each for each in stored if each not in lab.peers])
    keep_lab(directory, url, None)


# --- labels ----------------------------------------------------------------------------------------------------------


def check_label(label: str) -> str:
    """What a machine is to be called, without blanks around it.

    Raises:
        ConfigError: a machine cannot be called that.
    """
    text = label.strip() if isinstance(label, str) else "\n"
    if not text.isprintable() or len(text) > MAX_LABEL:
        raise ConfigError(f"A machine is called by one line of at most {MAX_LABEL} characters.")
    return text


def default_label() -> str:
    """The name of this machine, which need not be known in the network."""
    return printable(socket.gethostname())[:MAX_LABEL] or "client"


def _again(url: str) -> str:
    return f"kachery-cloud-init --node {url}"


def _text(value: Any) -> str:
    return shortened(printable(value), 254) if isinstance(value, str) else ""
