"""A secret of the settings that is in a file of its own, as those who run services like to have it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kachery_cloud.errors import ConfigError
from kachery_p2p.errors import NotAFile
from kachery_p2p.ownfiles import read_own_file

if TYPE_CHECKING:
    from kachery_cloud.settings.config import Config

#: Bytes of a secret; those of known providers have less than a hundred.
_MOST = 4096


def client_secret(config: Config) -> str:
    """The client secret of the OpenID provider, from the settings or from its file; empty where there is none.

    Raises:
        ConfigError: there is no such file, or it has no secret in it.
    """
    path = config.openid_client_secret_file
    return config.openid_client_secret if path is None else read_secret(path)


def read_secret(path: Path) -> str:
    """The client secret of an OpenID provider (`openid_client_secret_file`).

    Raises:
        ConfigError: there is no such file, or it has no secret in it.
    """
    try:
        text = read_own_file(path, _MOST).decode("utf-8").strip()
    except (OSError, NotAFile, ValueError) as error:
        raise ConfigError(f"The secret of the OpenID provider cannot be read from {path}: {error}.") from None
    if not text or not text.isprintable():
        raise ConfigError(f"{path} (openid_client_secret_file) must have the secret in it, on one line.")
    return text
