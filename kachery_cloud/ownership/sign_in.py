"""Signing in without a lab's node: at the provider itself, with a proof that stays on this machine.

A link is shown. Who follows it signs in at the provider, which sends the browser back to a port of this machine; where
the browser is elsewhere, the user copies the address that it was sent to. The nonce of the sign-in commits to the key
of this machine (`proofs`), and what comes of it is verified before it is kept.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kachery_cloud.errors import ConfigError, ProofRefused, SignInError
from kachery_cloud.ownership.archive import remember
from kachery_cloud.ownership.claims import RANDOM_BYTES, Malformed
from kachery_cloud.ownership.kept import Kept, keep_proof
from kachery_cloud.ownership.openid import begin, discover, fetch_keys, read_answer, redeem
from kachery_cloud.ownership.proofs import make_proof, new_nonce
from kachery_cloud.ownership.redirect import Receiver
from kachery_cloud.ownership.verifying import Issuer, Owner, verify
from kachery_cloud.settings.secret_file import client_secret

if TYPE_CHECKING:
    from kachery_cloud.openid import Provider
    from kachery_cloud.ownership.openid import Attempt
    from kachery_cloud.settings.config import Config
    from kachery_p2p.repo.keys import NodeKey

#: Seconds that are waited for somebody to sign in.
WAITING = 600.0
#: Bytes of a file with the client's secret.
_MOST_SECRET = 4_096
_DONE = "You are signed in. This window can be closed: go on where kachery-cloud waits."


class Front(Protocol):
    """Where somebody is shown a link, and may paste an address: a terminal, or a notebook."""

    def show_sign_in(self, url: str, provider: str) -> None:
        """Show the link on which to sign in."""
        ...

    def say(self, text: str) -> None:
        """Say a sentence."""
        ...

    def wait(self, receiver: Receiver, take: Callable[[str], bool], page: str, timeout: float) -> bool:
        """Wait for the answer, from a browser or pasted; what `take` raises ends it, but for `NotOurs`.

        Returns:
            False where nothing came.
        """
        ...


def sign_in(config: Config, identity: NodeKey, front: Front, *, timeout: float = WAITING) -> Owner:
    """Have the user sign in, and keep the proof.

    Args:
        config: the settings, with the provider and the client ID.
        identity: of this machine.
        front: how it speaks to the user.
        timeout: seconds to wait for the user.

    Returns:
        Who has signed in.

    Raises:
        ConfigError: no client ID is set.
        SignInError: nobody signed in, or the provider cannot be reached.
    """
    if not config.openid_client_id:
        raise ConfigError(
            "There is no client ID to sign in with. Get one from the provider (at Google, of the type Desktop app), "
            "and set KACHERY_CLOUD_OPENID_CLIENT_ID and KACHERY_CLOUD_OPENID_CLIENT_SECRET; or register this computer "
            "at your lab's node: kachery-cloud-init --node URL"
        )
    provider = discover(config.openid_issuer)
    claims, nonce = new_nonce(identity, secrets.token_bytes(RANDOM_BYTES))
    with Receiver() as receiver:
        attempt = begin(provider, config.openid_client_id, client_secret(config), receiver.address, nonce)
        front.show_sign_in(attempt.url, name_of(config.openid_issuer))
        code = _wait(attempt, receiver, front, timeout)
    kept = receive_token(identity, claims, redeem(attempt, code), provider, config.openid_client_id)
    owner = check_own(kept, identity)
    remember(config.directory, kept.keys)
    keep_proof(config.directory, kept)
    return owner


def receive_token(identity: NodeKey, claims: bytes, id_token: str, provider: Provider, client_id: str) -> Kept:
    """Make a proof of an ID token that has just come.

    Raises:
        SignInError: it is none, or the keys of the provider cannot be had.
    """
    try:
        proof = make_proof(identity, claims, id_token, now=time.time())
    except Malformed as error:
        raise SignInError(f"What {provider.issuer} has given out cannot be read: {error}.") from None
    return Kept(proof, fetch_keys(provider, (client_id,)))


def check_own(kept: Kept, identity: NodeKey) -> Owner:
    """Who a proof of this machine, made just now of what the provider itself has said, says it is.

    Raises:
        SignInError: it proves nothing; with the reason, and what to do.
    """
    issuers = {kept.keys.issuer: Issuer(kept.keys.keys, frozenset(kept.keys.audiences))}
    try:
        return verify(kept.proof, identity.peer_id, issuers, time.time())
    except ProofRefused as error:
        advice = "Set the clock of this computer and try again." if error.reason == "TIME" else "Try again."
        where = kept.keys.issuer
        raise SignInError(f"The sign-in at {where} proves nothing, and is not kept. {error} {advice}") from None


def _wait(attempt: Attempt, receiver: Receiver, front: Front, timeout: float) -> str:
    codes: list[str] = []

    def take(address: str) -> bool:
        codes.append(read_answer(attempt, address))
        return True

    if not front.wait(receiver, take, _DONE, timeout):
        raise SignInError("Nobody has signed in. To try again: kachery-cloud-init --sign-in")
    return codes[0]


def name_of(issuer: str) -> str:
    """What people call an issuer."""
    from urllib.parse import urlsplit

    return "Google" if issuer == "https://accounts.google.com" else urlsplit(issuer).netloc or issuer
