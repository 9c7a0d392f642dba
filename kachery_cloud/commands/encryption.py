"""Options by which commands encrypt, and `key`, which prints whom colleagues encrypt to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kachery_cloud.commands.support import Function, command, json_option, print_result
from kachery_cloud.errors import InvalidArgument

if TYPE_CHECKING:
    from kachery_cloud.encryption.recipients import Encrypt


def encrypting_options(function: Function) -> Function:
    """The options of every command that may encrypt."""
    for option in (
        click.option(
            "--deterministic",
            is_flag=True,
            help="With --encrypt, for the one group of --to: the same bytes have the same URI.",
        ),
        click.option(
            "--passphrase",
            "with_passphrase",
            is_flag=True,
            help="Encrypt for whoever knows a passphrase, which is asked for; or from KACHERY_CLOUD_PASSPHRASE, or the "
            "file that KACHERY_CLOUD_PASSPHRASE_FILE names.",
        ),
        click.option(
            "--encrypt-to",
            "encrypt_to",
            multiple=True,
            metavar="RECIPIENT",
            help="Encrypt for this one, too: age1..., 'ssh-ed25519 AAAA...', or a file of such lines. May be repeated.",
        ),
        click.option(
            "--encrypt",
            "encrypted",
            is_flag=True,
            help="Store it encrypted (age), for this machine and the groups of --to. Loading decrypts it.",
        ),
    ):
        function = option(function)
    return function


def encrypt_choice(
    encrypted: bool, encrypt_to: tuple[str, ...], with_passphrase: bool, deterministic: bool = False
) -> Encrypt:
    """What these options say, as `encrypt` of `store_file`.

    Raises:
        click.UsageError: they do not go together.
        InvalidArgument: there is no passphrase.
    """
    if deterministic:
        if encrypt_to or with_passphrase:
            raise click.UsageError("--deterministic is for the one group of --to, and for nobody else.")
        from kachery_cloud.encryption.recipients import DETERMINISTIC

        return DETERMINISTIC
    if not with_passphrase:
        return list(encrypt_to) if encrypt_to else encrypted or None
    if encrypt_to:
        raise click.UsageError(
            "With --passphrase nobody else can be named: age has no file for a passphrase and a key. Leave out one."
        )
    from kachery_cloud.encryption.identities import ask_passphrase, given_passphrase
    from kachery_cloud.encryption.stanzas import Passphrase

    text = given_passphrase() or ask_passphrase("Passphrase", twice=True)
    if text is None:
        raise InvalidArgument(
            "There is no terminal to ask for the passphrase. Put it into KACHERY_CLOUD_PASSPHRASE, or the path of a "
            "file whose first line it is into KACHERY_CLOUD_PASSPHRASE_FILE."
        )
    return Passphrase(text)


@command("key")
@json_option
def key(as_json: bool) -> None:
    """Print the age key of this machine that others encrypt to, and say on stderr where its secret part lies.

    Colleagues name it in --encrypt-to, or give it to "age -r". What is encrypted for it is decrypted by loading it
    here, and by "age -d -i" with the file. It is made when it is first needed; keep a copy of the file.

    \b
    Example:
        kachery-cloud key
    """  # noqa: D301
    from kachery_cloud.encryption.identities import KEY_NAME, own_identity
    from kachery_cloud.settings.config import load_config

    config = load_config()
    path = str(config.directory / KEY_NAME)
    recipient = own_identity(config).recipient
    print_result(as_json, recipient, recipient=recipient, file=path)
    if not as_json:
        click.echo(f"The secret key is in {path}. Who has that can read what is encrypted for it.", err=True)
