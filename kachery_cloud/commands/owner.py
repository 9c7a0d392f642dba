"""The command `owner`: who stands behind a machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kachery_cloud.commands.support import command, json_option

if TYPE_CHECKING:
    from kachery_cloud.ownership.kept import Kept
    from kachery_cloud.ownership.verifying import Owner

_DAY = 86_400.0


@command("owner")
@click.argument("peer", required=False)
@click.option("--verify", "proof_file", type=click.Path(), metavar="FILE", help="Check a proof that was saved.")
@click.option("--save", "to_file", type=click.Path(), metavar="FILE", help="Write the proof into a new file.")
@click.option(
    "--keys", "keys_file", type=click.Path(), metavar="FILE", help="Trust the provider's keys in that file, too."
)
@click.option(
    "--max-age", type=click.FloatRange(min=0, min_open=True), metavar="DAYS", help="How old a sign-in counts."
)
@click.option("--remove", is_flag=True, help="Take away the proof of this machine, so that nobody is handed it.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long to try to reach the machine.")
@json_option
def owner(
    peer: str | None,
    proof_file: str | None,
    to_file: str | None,
    keys_file: str | None,
    max_age: float | None,
    remove: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Say which user stands behind a machine, given by its peer ID; without one, behind this machine.

    The machine hands over its proof, by default to members of common groups alone: an ID token of Google, or another
    provider, that is for the key of that machine. It is checked here, against keys of the provider that this machine
    has seen. Ends with exit code 1 when the proof proves nothing, and with 3 when there is none.

    With --verify nobody is asked: neither the machine nor the provider.

    \b
    Example:
        kachery-cloud owner
    """  # noqa: D301
    from kachery_cloud.errors import ContentNotFound, ProofRefused
    from kachery_cloud.ownership import answering
    from kachery_cloud.ownership.kept import forget_proof, own_proof
    from kachery_cloud.settings.config import load_config

    if proof_file is not None and to_file is not None:
        raise click.UsageError("--verify reads a proof, --save writes one; give one of them.")
    if remove and (peer or proof_file or to_file):
        raise click.UsageError("--remove takes away the proof of this machine; it goes with nothing else.")
    config = load_config()
    if remove:
        gone = forget_proof(config.directory)
        text = "The proof of ownership is removed." if gone else "There was no proof of ownership here."
        click.echo(json.dumps({"removed": gone}) if as_json else text)
        return
    policy = answering.checked_policy(None if max_age is None else max_age * _DAY)
    given = [] if keys_file is None else [answering.read_keys_file(keys_file)]
    if proof_file is not None:
        kept = answering.read_proof_file(proof_file)
        peer_id = peer or _said_peer(kept)
        found = answering.check(config, kept, peer_id, policy, given, fetch=False)
    elif peer is not None:
        peer_id, told = answering.ask(config, peer, timeout)
        if told is None:
            raise ContentNotFound(
                f"{peer_id} does not say who stands behind it: nobody has signed in there, or it tells the members of "
                "its groups alone."
            )
        kept = told
        found = answering.check(config, kept, peer_id, policy, given, fetch=True)
    else:
        own = own_proof(config.directory)
        if own is None:
            raise ContentNotFound("Nobody has signed in on this machine. To do so: kachery-cloud-init --sign-in")
        kept = own
        found = answering.verify_own(config, kept, policy, given)
    if to_file is not None:
        _save(kept, Path(to_file))
    if found.peer != _said_peer(kept):
        raise ProofRefused("The proof is about another machine.", "PEER")
    _print(found, as_json)


def _said_peer(kept: Kept) -> str:
    """Which machine a proof claims to be about."""
    from kachery_cloud.errors import ProofRefused
    from kachery_cloud.ownership.claims import Malformed, from_base64url, json_object

    try:
        said = json_object(from_base64url(kept.proof.statement.split(".")[1], "statement"), "statement")
    except Malformed as error:
        raise ProofRefused(f"The proof cannot be read: {error}.", "MALFORMED") from None
    return str(said.get("peer"))


def _save(kept: Kept, path: Path) -> None:
    from kachery_p2p.oserrors import explained

    # It names a person: whoever passes it on decides to.
    with explained("writing", path), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps(kept.to_json(), indent=2) + "\n")


def _print(found: Owner, as_json: bool) -> None:
    from kachery_cloud.ownership.sign_in import name_of
    from kachery_cloud.utc import time_text

    signed_in = time_text(found.signed_in)
    if as_json:
        values = {
            "peer": found.peer,
            "name": found.name,
            "email": found.email,
            "subject": found.subject,
            "issuer": found.issuer,
            "audience": found.audience,
            "signed_in": signed_in,
        }
        click.echo(json.dumps(values))
        return
    person = f"{found.name} <{found.email}>" if found.name and found.email else found.name or found.email
    click.echo(f"{found.peer} belongs to {person or f'the user {found.subject}'}.")
    click.echo(f"Signed in with {name_of(found.issuer)} on {signed_in[:10]} at {signed_in[11:16]} UTC; verified.")
