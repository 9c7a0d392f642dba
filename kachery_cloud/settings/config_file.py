"""`config.json` of a data directory, and the other small files of settings.

They are read with bounds, and written whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kachery_cloud.errors import ConfigError, NotAFile
from kachery_p2p.json_reader import InvalidJSON, read_json
from kachery_p2p.ownfiles import read_own_file

CONFIG_NAME = "config.json"
#: Bytes of the settings file: hundreds of peers are a tenth of this.
MAX_CONFIG = 1 << 20


def read_config_file(path: Path) -> dict[str, Any]:
    """What `config.json` holds, unchecked; empty where there is none.

    Raises:
        ConfigError: it cannot be read, or is not a JSON object.
    """
    try:
        stored = read_json(read_own_file(path, MAX_CONFIG))
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        from kachery_p2p.private import can_write

        if not can_write(path.parent):
            return {}  # another user's directory, to be read from: no node will run here that could need them
        raise ConfigError(
            f"The settings file {path} may not be read by this user. In a directory that a group shares, its owner "
            f"makes it readable with: chmod g+r {path}"
        ) from error
    except OSError as error:
        raise ConfigError(f"The settings file {path} cannot be read: {error.strerror or error}.") from error
    except NotAFile as error:
        raise ConfigError(f"The settings cannot be read: {error}") from None
    except InvalidJSON as error:
        raise ConfigError(f"The settings file {path} is not JSON: {error}.") from None
    if not isinstance(stored, dict):
        raise ConfigError(f'The settings file {path} must hold a JSON object, such as {{"timeout": 60}}.')
    return stored


def make_private(path: Path) -> None:
    """Take a file with secrets in it out of others' reach.

    Raises:
        NoPermission: it belongs to another user, say.
    """
    from kachery_p2p import private
    from kachery_p2p.oserrors import explained

    with explained("making private", path):
        private.fit(path)


def write_private(path: Path, content: dict[str, Any]) -> None:
    """Write JSON as `write_private_text` writes a text."""
    write_private_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_private_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all, readable by its owner alone. Makes its folder where that is missing.

    Raises:
        NoPermission, DiskFull: it cannot be written.
    """
    from kachery_p2p import private
    from kachery_p2p.oserrors import explained
    from kachery_p2p.repo.wholefile import write_whole

    with explained("writing", path):
        private.make_directory(path.parent)
        write_whole(path, text.encode("utf-8"))
