"""`kcl.owner`: who stands behind this machine, or behind another one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.arguments import path_text
from kachery_cloud.errors import (
    ConfigError,
    InvalidArgument,
    NotAFile,
    ProofRefused,
    SignInError,
)
from kachery_cloud.ownership.archive import KeySet, believed, read_key_set, remember
from kachery_cloud.ownership.claims import Malformed
from kachery_cloud.ownership.kept import Kept, own_proof, read_kept
from kachery_cloud.ownership.proofs import MAX_PROOF
from kachery_cloud.ownership.verifying import Owner, Policy, key_name, verify
from kachery_cloud.settings.config import GOOGLE, load_config
from kachery_cloud.settings.values import parse_timeout
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config

#: Seconds to reach a peer and hear who stands behind it.
OWNER_TIMEOUT = 30.0
#: Bytes of a file with a proof or with keys.
MAX_FILE = 8 * MAX_PROOF


def owner(
    peer: str | None = None,
    *,
    max_age: float | None = None,
    keys: str | Path | None = None,
    timeout: float | None = None,
) -> Owner | None:
    """Who stands behind a machine: the user who signed in there, as an OpenID provider such as Google has signed it.

    The machine hands over its proof, by default to members of common groups and to its user's other machines. The proof
    is verified here, with keys of the provider that this machine has seen itself; where the one that is needed is not
    among them, the provider is asked for its keys.

    Args:
        peer: the peer ID of the machine, or an address that ends in it; this machine where it is None.
        max_age: seconds since the sign-in, beyond which it does not count; any age by default.
        keys: a file with keys of providers that you trust: a saved proof, or the key set in one.
        timeout: seconds to reach the machine; 30 by default.

    Returns:
        The user ("name", "email", "subject", "issuer", and when: "signed_in", in seconds since the epoch). None where
        nobody has signed in there, or the machine does not tell you.

    Raises:
        ProofRefused: what it hands over proves nothing; its `reason` and its text say why.
        DialError: the machine cannot be reached.

    Example:
        >>> kcl.owner().email
        'ada@example.org'
    """
    config = load_config()
    policy = checked_policy(max_age)
    given = [] if keys is None else [read_keys_file(keys)]
    if peer is None:
        kept = own_proof(config.directory)
        return None if kept is None else verify_own(config, kept, policy, given)
    peer_id, kept = ask(config, peer, timeout)
    return None if kept is None else check(config, kept, peer_id, policy, given, fetch=True)


def ask(config: Config, peer: str, timeout: float | None = None) -> tuple[str, Kept | None]:
    """The peer ID that is meant, and the proof that this peer hands over; None where it hands over none.

    Raises:
        InvalidArgument, InvalidAddress: `peer` names no peer.
        DialError: it cannot be reached.
        ProofRefused: what it hands over is no proof.
    """
    from kachery_cloud.node.connection import get_connection
    from kachery_cloud.uri import check_peer_address
    from kachery_p2p.node.messages import OwnerRequest
    from kachery_p2p.peer_ids import parse_peer_id
    from kachery_p2p.repo.keys import kept_identity

    if not isinstance(peer, str):
        raise InvalidArgument(f"peer is {shown(peer)}; it must be a peer ID, such as 12D3KooW...")
    way, _, last = check_peer_address(peer, "peer").rpartition("/p2p/")
    peer_id = parse_peer_id(last)
    identity = kept_identity(config.directory)
    if identity is not None and identity.peer_id == peer_id:
        return peer_id, own_proof(config.directory)
    seconds = OWNER_TIMEOUT if timeout is None else parse_timeout(timeout, "timeout")
    text = get_connection(config).owner(OwnerRequest(peer_id, (way,) if way else (), seconds))
    return peer_id, read_kept(text.encode()) if text else None


def verify_own(config: Config, kept: Kept, policy: Policy, given: list[KeySet]) -> Owner:
    """Who has signed in at this machine. The keys beside its own proof are those that it fetched itself.

    Raises:
        ProofRefused: the proof is that of another key, say.
    """
    from kachery_p2p.repo.keys import kept_identity

    identity = kept_identity(config.directory)
    if identity is None:
        raise ProofRefused("There is a proof of ownership here, but no key that it is about.", "PEER")
    return check(config, kept, identity.peer_id, policy, [kept.keys, *given], fetch=False)


def check(config: Config, kept: Kept, peer_id: str, policy: Policy, given: list[KeySet], *, fetch: bool) -> Owner:
    """Who a proof says owns a machine.

    Args:
        config: the settings.
        kept: the proof. The keys that came with it are not believed.
        peer_id: of the machine.
        policy: what it must fulfil.
        given: keys that are to be believed, besides those that this machine has seen.
        fetch: ask the issuer for its keys, where the right one is missing.

    Raises:
        ProofRefused: it proves nothing.
    """
    issuers = believed(config, *given)
    try:
        return verify(kept.proof, peer_id, issuers, time.time(), policy)
    except ProofRefused as refusal:
        if refusal.reason == "ISSUER" and not config.openid_client_id and not issuers:
            raise ProofRefused(
                f"{refusal} Sign in here, or set openid_issuer and openid_client_id as your lab has them.", "ISSUER"
            ) from None
        if refusal.reason != "UNKNOWN_KEY" or not fetch or not _fetched(config, kept, issuers):
            raise
    return verify(kept.proof, peer_id, believed(config, *given), time.time(), policy)


def _fetched(config: Config, kept: Kept, issuers: object) -> bool:
    """Whether the keys of the proof's issuer were fetched now. None is asked that this machine does not believe."""
    from kachery_cloud.ownership.openid import discover, fetch_keys

    issuer, _ = key_name(kept.proof)
    assert isinstance(issuers, dict)
    if issuer not in issuers or not (config.public or issuer != GOOGLE):
        return False
    try:
        remember(config.directory, fetch_keys(discover(issuer)))
    except SignInError as error:
        raise ProofRefused(f"{error} Its keys are needed to check the proof.", "UNKNOWN_KEY") from None
    return True


# --- what is given ---------------------------------------------------------------------------------------------------


def checked_policy(max_age: float | None) -> Policy:
    """What a proof must fulfil.

    Raises:
        InvalidArgument: the age is no positive number.
    """
    if max_age is None:
        return Policy()
    if isinstance(max_age, bool) or not isinstance(max_age, (int, float)) or not 0 < max_age < 1e12:
        raise InvalidArgument(f"max_age is {shown(max_age)}; it must be a number of seconds above 0.")
    return Policy(max_age=float(max_age))


def read_proof_file(path: str | Path) -> Kept:
    """A proof that was saved.

    Raises:
        ProofRefused: there is something else in the file.
        FileMissing, NoPermission: it cannot be read.
    """
    return read_kept(_read(path))


def read_keys_file(path: str | Path) -> KeySet:
    """Keys that the user trusts, from a file with a proof or with a key set.

    Raises:
        ConfigError: there is something else in the file.
        FileMissing, NoPermission: it cannot be read.
    """
    from kachery_p2p.json_reader import InvalidJSON, read_json

    try:
        value = read_json(_read(path))
        return read_key_set(value["keys"] if isinstance(value, dict) and "proof" in value else value)
    except (InvalidJSON, Malformed, KeyError) as error:
        raise ConfigError(f"{path} has no keys of a provider in it ({error}).") from None


def _read(path: str | Path) -> bytes:
    from kachery_p2p.oserrors import explained
    from kachery_p2p.ownfiles import read_own_file

    text = path_text(path, "the file")
    with explained("reading", Path(text)):
        try:
            return read_own_file(text, MAX_FILE)
        except NotAFile as error:
            raise ConfigError(str(error)) from None
