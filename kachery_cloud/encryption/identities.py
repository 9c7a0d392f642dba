"""The keys that this machine can decrypt with.

    its own     `age.key` in the data directory (0600, as age-keygen writes it), made when it is first needed
    groups      an X25519 key for each secret of a group that it is in, derived from that
    a link      the key behind `#key=` of a URI
    named       files in KACHERY_CLOUD_IDENTITY (several are separated as in PATH): age keys, or SSH keys
    SSH         `~/.ssh/id_ed25519` and `~/.ssh/id_rsa`, where a file is for them
    passphrase  KACHERY_CLOUD_PASSPHRASE, the first line of the file in KACHERY_CLOUD_PASSPHRASE_FILE, or the terminal

They are looked at in this order, and only as far as the recipients of a file make it necessary.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.encryption.groups import Secrets, group_secrets
from kachery_cloud.encryption.header import Header
from kachery_cloud.encryption.stanzas import Identity, Passphrase, SSHIdentity, X25519Identity
from kachery_cloud.encryption.stream import check_header
from kachery_cloud.errors import ConfigError, InvalidArgument, NoDecryptionKey, NoPermission
from kachery_p2p import private
from kachery_p2p.membership.ids import derived_key
from kachery_p2p.oserrors import explained
from kachery_p2p.ownfiles import read_own_file
from kachery_p2p.repo.keys import may_keep_identity
from kachery_p2p.repo.wholefile import write_new

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config

#: The file of this machine's own key.
KEY_NAME = "age.key"
#: What an X25519 key of a group is derived for.
_GROUP_PURPOSE = b"kachery age X25519 1"
#: Bytes of a file of keys, and of one with a passphrase.
_MAX_KEYS = 1 << 20
_MAX_PASSPHRASE = 1 << 16
_SSH_FILES = ("id_ed25519", "id_rsa")


def group_identity(secret: bytes) -> X25519Identity:
    """The age key that all have who know a secret of a group (32 bytes)."""
    return X25519Identity(derived_key(secret, _GROUP_PURPOSE))


# --- this machine's own ----------------------------------------------------------------------------------------------


def own_identity(config: Config) -> X25519Identity:
    """The key of this data directory, made on first need. Two processes that do this at once get the same.

    Raises:
        NoPermission, DiskFull: it cannot be made or read.
        ConfigError: the file is damaged.
    """
    found = kept_identity(config)
    if found is not None:
        return found
    path = config.directory / KEY_NAME
    with explained("making the key file", path):
        private.make_directory(config.directory)
        if not may_keep_identity(config.directory):
            raise NoPermission(
                f"{config.directory} belongs to another user, whose key {path.name} is. Use a data directory of your "
                "own to encrypt (KACHERY_CLOUD_DIR), or name whom it is for (encrypt='age1...')."
            )
        new = X25519Identity.new()
        day = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = f"# created: {day}\n# public key: {new.recipient}\n{new.text}\n"
        write_new(path, text.encode("ascii"), secret=True)
    found = kept_identity(config)
    assert found is not None, "it was written just now, here or elsewhere"
    return found


def kept_identity(config: Config) -> X25519Identity | None:
    """The key of this data directory; None where there is none yet, or it is another user's. Makes nothing.

    Raises:
        ConfigError: the file is damaged.
    """
    path = config.directory / KEY_NAME
    if not path.exists() or not may_keep_identity(config.directory):
        return None
    with explained("reading the key file", path):
        private.make_private(path)
    (found, *_) = _read_keys(path)
    if not isinstance(found, X25519Identity):
        raise ConfigError(f"{path} is no age key. Put back a copy, or move it away: then a new one is made.")
    return found


# --- files of keys ---------------------------------------------------------------------------------------------------


def _read_keys(path: Path) -> list[Identity]:
    """The keys in a file.

    Raises:
        ConfigError: there is none. The message repeats nothing of the file.
    """
    with explained("reading the key file", path):
        data = read_own_file(path, _MAX_KEYS)
    try:
        if b"-----BEGIN" in data[:4096]:
            found = SSHIdentity.parse(data, str(path))
            if found is None:
                raise ConfigError(f"{path} is protected by a passphrase of its own, which is not asked for here.")
            return [found]
        lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
        keys: list[Identity] = [X25519Identity.parse(line) for line in lines if line and not line.startswith("#")]
    except InvalidArgument as error:
        raise ConfigError(f"The key file {path} cannot be used. {error}") from None
    if not keys:
        raise ConfigError(f"There is no key in {path}.")
    return keys


def _named_files() -> list[Path]:
    """What KACHERY_CLOUD_IDENTITY names."""
    given = os.environ.get("KACHERY_CLOUD_IDENTITY", "")
    return [Path(os.path.expanduser(each)) for each in given.split(os.pathsep) if each.strip()]


def _ssh_identities(header: Header) -> Iterator[Identity]:
    """The SSH keys of the user, where the file is for one of their kind."""
    kinds = {stanza.kind for stanza in header.stanzas}
    for name in _SSH_FILES:
        path = Path(os.path.expanduser("~/.ssh"), name)
        if "ssh-" + name.removeprefix("id_") in kinds and path.is_file():
            try:
                found = SSHIdentity.parse(read_own_file(path, _MAX_KEYS), str(path))
            except (OSError, InvalidArgument):
                continue  # it is not ours to complain of; what would open the file is told at the end
            if found is not None:
                yield found


# --- passphrases -----------------------------------------------------------------------------------------------------


def given_passphrase() -> str | None:
    """The passphrase of the environment, or of the file that it names.

    Raises:
        ConfigError: that file has none.
    """
    text = os.environ.get("KACHERY_CLOUD_PASSPHRASE", "")
    if text:
        return text
    name = os.environ.get("KACHERY_CLOUD_PASSPHRASE_FILE", "")
    if not name:
        return None
    path = Path(os.path.expanduser(name))
    with explained("reading the passphrase in", path):
        first = read_own_file(path, _MAX_PASSPHRASE).partition(b"\n")[0].removesuffix(b"\r")
    try:
        text = first.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"The first line of {path} is no text in UTF-8, so it is no passphrase.") from None
    if not text:
        raise ConfigError(f"The first line of {path} is empty, so it is no passphrase.")
    return text


def ask_passphrase(prompt: str, *, twice: bool = False) -> str | None:
    """Ask on the terminal; None where there is none.

    Raises:
        InvalidArgument: nothing was typed, or not the same twice.
    """
    import getpass

    if sys.stdin is None or not sys.stdin.isatty():
        return None
    first = getpass.getpass(f"{prompt}: ")
    if not first:
        raise InvalidArgument("No passphrase was typed.")
    if twice and getpass.getpass("The same again: ") != first:
        raise InvalidArgument("The two passphrases differ. Nothing was stored.")
    return first


# --- all of them -----------------------------------------------------------------------------------------------------


class Keyring:
    """The keys that a load may use.

    Args:
        config: of the data directory.
        link: the key of a link.
        secrets: those of the groups that this machine is or was in.
    """

    def __init__(
        self,
        config: Config,
        link: str | None = None,
        *,
        secrets: Secrets | None = None,
    ) -> None:
        self._config = config
        self._link = link
        self._groups = {} if secrets is None else secrets.known

    def file_key(self, header: Header, name: str) -> bytes:
        """The file key of a file.

        Args:
            header: of the file. Its MAC is checked.
            name: what the file is called in errors.

        Raises:
            NoDecryptionKey: none of the keys opens it.
            EncryptionError: the header is damaged, or was changed.
        """
        kinds = {stanza.kind for stanza in header.stanzas}
        sources = [self._passphrase(name)] if kinds == {"scrypt"} else [self._plain_keys(), _ssh_identities(header)]
        for identities in sources:
            for identity in identities:
                key = _unwrapped(header, identity)
                if key is not None:
                    check_header(header, key)
                    return key
        raise self._missing(header, name, kinds)

    def _plain_keys(self) -> Iterator[Identity]:
        if self._link is not None:
            yield _parsed(self._link)
        own = kept_identity(self._config)
        if own is not None:
            yield own
        for secrets in self._groups.values():
            for secret in secrets:
                yield group_identity(secret)
        for path in _named_files():
            yield from _read_keys(path)

    def _passphrase(self, name: str) -> Iterator[Identity]:
        given = given_passphrase()
        if given is None:
            given = ask_passphrase(f"Passphrase of {name}")
        if given is not None:
            yield Passphrase(given)

    def _missing(self, header: Header, name: str, kinds: set[str]) -> NoDecryptionKey:
        if kinds == {"scrypt"}:
            given = given_passphrase()
            wrong = "the passphrase of the settings does not open it. " if given is not None else ""
            return NoDecryptionKey(
                f"{name} is encrypted with a passphrase: {wrong}Type it on a terminal, or put it into "
                "KACHERY_CLOUD_PASSPHRASE, or the path of a file with it into KACHERY_CLOUD_PASSPHRASE_FILE."
            )
        told = {
            "X25519": "age keys (your own, one of a group, or one in a file that KACHERY_CLOUD_IDENTITY names)",
            "ssh-ed25519": "ssh-ed25519 keys",
            "ssh-rsa": "ssh-rsa keys",
        }
        counted = [
            f"{sum(stanza.kind == kind for stanza in header.stanzas)} of {text}"
            for kind, text in told.items()
            if kind in kinds
        ]
        what = "; ".join(counted) or "keys of a kind that is not known here"
        count = len(self._groups)
        tried = f" The keys of {count} group{'s' if count > 1 else ''} were tried." if count else ""
        link = " The key in the link does not open it: perhaps it is that of another file." if self._link else ""
        return NoDecryptionKey(
            f"{name} is encrypted, and no key that opens it is here. It was encrypted for {what}.{tried}{link} Ask "
            "whoever stored it to encrypt it for this machine too (kachery-cloud key prints its key), to take it into "
            "the group, or to share it with its key (kachery-cloud share --with-key)."
        )


@lru_cache(maxsize=64)
def _parsed(text: str) -> X25519Identity:
    return X25519Identity.parse(text)


def _unwrapped(header: Header, identity: Identity) -> bytes | None:
    for stanza in header.stanzas:
        found = identity.unwrap(stanza)
        if found is not None:
            return found
    return None


def keyring(config: Config, link: str | None = None) -> Keyring:
    """The keys of a data directory, those of its groups among them."""
    return Keyring(config, link, secrets=group_secrets(config))
