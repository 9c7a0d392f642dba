"""For whom something is encrypted: what `encrypt` of a call says, and `--encrypt` of a command.

    True                          this machine's own key, and the groups that it is stored for
    "age1..."                     an age key
    "ssh-ed25519 AAAA..."         an SSH key, ed25519 or RSA, as it stands in `~/.ssh/id_ed25519.pub`
    a path                        a file of such lines; `#` begins a comment
    a list of these
    "deterministic"               one group that it is stored for, so that the same bytes have the same URI
    Passphrase("...")             whoever knows it, and nobody else: age has no file for a passphrase and a key

This machine's own key is always among them, but with a passphrase, and where it is to be deterministic.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from kachery_cloud.arguments import path_text
from kachery_cloud.encryption.groups import Secrets, group_secrets
from kachery_cloud.encryption.identities import KEY_NAME, group_identity, own_identity
from kachery_cloud.encryption.stanzas import Passphrase
from kachery_cloud.errors import ConfigError, FileMissing, InvalidArgument
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.text import shown

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config
    from kachery_p2p.access.audience import Audience

Encrypt: TypeAlias = "bool | str | os.PathLike[str] | Passphrase | Sequence[str | os.PathLike[str]] | None"
#: As `encrypt`: the same bytes for the same group give the same file.
DETERMINISTIC = "deterministic"
_MAX_FILE = 1 << 20
#: Longer than any system lets a path be.
_MAX_PATH = 4096
_MAX_RECIPIENTS = 500


@dataclass(frozen=True)
class Recipients:
    """Those who can decrypt.

    Attributes:
        keys: "age1..." and SSH keys, sorted, each once.
        passphrase: what they know instead.
        secret: of the group whose members they are, where the same bytes are to give the same file.
    """

    keys: tuple[str, ...] = ()
    passphrase: Passphrase | None = None
    secret: bytes | None = field(default=None, repr=False)


def recipients_for(config: Config, encrypt: Encrypt, audience: Audience | None = None) -> Recipients | None:
    """Whom a call means; None where nothing is to be encrypted.

    Args:
        config: of the data directory.
        encrypt: see the module.
        audience: for whom it is stored: the groups in it can decrypt.

    Raises:
        InvalidArgument: it names nobody, or no key that is known.
        FileMissing: it is a path, and there is no such file.
        ConfigError: this machine is not in one of the groups.
    """
    if encrypt is None or encrypt is False:
        return None
    if isinstance(encrypt, Passphrase):
        if not encrypt.text:
            raise InvalidArgument("The passphrase is empty.")
        return Recipients(passphrase=encrypt)
    if isinstance(encrypt, str) and encrypt == DETERMINISTIC:
        return _deterministic(config, audience)
    keys = set() if encrypt is True else _named(encrypt)
    keys.add(own_identity(config).recipient)
    if audience is not None:
        keys.update(audience_keys(config, audience))
    if len(keys) > _MAX_RECIPIENTS:
        raise InvalidArgument(f"That is {len(keys):,} recipients; a file may be for {_MAX_RECIPIENTS} at most.")
    return Recipients(tuple(sorted(keys)))


def who_can_read(config: Config, recipients: Recipients) -> str:
    """What is to be known of something that everybody may load, and that is encrypted."""
    if recipients.passphrase is not None:
        return "Anybody can load the encrypted file; only who knows the passphrase can read it."
    own = config.directory / KEY_NAME
    others = len(recipients.keys) - 1
    readers = f"this machine and {others:,} other recipient{'s' if others > 1 else ''}" if others else "this machine"
    return f"Anybody can load the encrypted file; only {readers} can read it. Keep a copy of {own}."


def _deterministic(config: Config, audience: Audience | None) -> Recipients:
    """The members of the one group that an audience is.

    Raises:
        InvalidArgument: it is something else.
        ConfigError: this machine does not have the secret of the group.
    """
    from kachery_p2p.access.audience import OWN

    groups = frozenset() if audience is None else audience.groups
    if len(groups) != 1 or OWN in groups:
        raise InvalidArgument(
            "Deterministic encryption is for exactly one group: the numbers that are random otherwise follow from its "
            "secret. Name it with --to (to=)."
        )
    assert audience is not None, "it has a group"
    secrets = group_secrets(config)
    (recipient,) = audience_keys(config, audience, secrets)
    (group,) = groups
    return Recipients((recipient,), secret=secrets.secrets_of(group)[0])


def audience_keys(config: Config, audience: Audience, secrets: Secrets | None = None) -> set[str]:
    """The recipients of the groups in an audience, by their secrets of today.

    Args:
        config: of the data directory.
        audience: whose groups are meant. Where it is for everybody, or for the user's own machines, there are none.
        secrets: those of groups; of the data directory where None.

    Raises:
        ConfigError: this machine does not have the secret of one.
    """
    from kachery_p2p.access.audience import OWN

    found: set[str] = set()
    for group in sorted(audience.groups - {OWN}):
        secrets = group_secrets(config) if secrets is None else secrets
        if group not in secrets.today:
            raise ConfigError(
                f"This machine does not have today's secret of the group {group}, so nothing can be encrypted for it. "
                "It comes when it meets another member; kachery-cloud group list shows the groups that it is in."
            )
        found.add(group_identity(secrets.secrets_of(group)[0]).recipient)
    return found


def _named(encrypt: Any) -> set[str]:
    given = encrypt if isinstance(encrypt, (list, tuple)) else [encrypt]
    if not given:
        raise InvalidArgument("encrypt names nobody. Give a recipient, such as 'age1...', or True for yourself.")
    found: set[str] = set()
    for each in given:
        if isinstance(each, os.PathLike):
            found.update(_in_file(path_text(each, "encrypt")))
        elif not isinstance(each, str):
            raise InvalidArgument(
                f"encrypt is {shown(encrypt)}; it must be True, a recipient ('age1...', 'ssh-ed25519 AAAA...'), the "
                "path of a file with recipients, or a list of these."
            )
        elif each.startswith(("age1", "ssh-")):
            found.add(_checked(each, "encrypt"))
        elif each.upper().startswith("AGE-SECRET-KEY-"):
            raise InvalidArgument(
                "encrypt was given a secret key. Whom it is for is said by a public one, age1...: age-keygen -y prints "
                "it."
            )
        else:
            found.update(_in_file(os.path.expanduser(path_text(each, "encrypt"))))
    return found


def _in_file(path: str) -> set[str]:
    if len(path) > _MAX_PATH or not os.path.lexists(path):
        raise FileMissing(
            f"{shown(path)} is neither a recipient nor a file of recipients. A recipient is 'age1...' or "
            "'ssh-ed25519 AAAA...'."
        )
    with explained("reading the recipients in", path):
        lines = read_own_file(path, _MAX_FILE).decode("utf-8", "replace").splitlines()
    wanted = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    found = {_checked(line, f"line {number} of {path}") for number, line in wanted if line and line[0] != "#"}
    if not found:
        raise ConfigError(f"There is no recipient in {path}.")
    return found


def _checked(text: str, where: str) -> str:
    """A recipient in the form that it is compared in."""
    parse_recipient(text, where)
    return " ".join(text.split()[:2]) if text.startswith("ssh-") else text


def parse_recipient(text: str, where: str = "encrypt") -> Any:
    """A recipient as pyrage has it.

    Raises:
        InvalidArgument: it is none.
    """
    pyrage: Any = import_module("pyrage")  # it has no types

    try:
        if text.startswith("ssh-"):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        if text.upper().startswith("AGE-SECRET-KEY-"):
            raise InvalidArgument(f"A secret key is named as a recipient ({where}): a public one is meant.") from None
        raise InvalidArgument(f"{shown(text, 100)} ({where}) is no recipient that age knows: {error}.") from None
