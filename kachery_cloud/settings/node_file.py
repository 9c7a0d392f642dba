"""`node.toml` in the data directory: the settings of `kachery-cloud-node`, in a file that explains itself.

It has the same names as `config.json`, and goes before it; the environment and the options of the command go before
both. Nothing but `kachery-cloud-node` reads it: it says how the service of this machine is run. What programs beside it
need, too (pinning services, for whom things are stored, limits of a store), stays in `config.json`, which all of them
read.

`template` writes a file with every setting as a comment, from the same entries as everything else
(`kachery_cloud.settings.config`).
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kachery_cloud.errors import ConfigError, NotAFile
from kachery_cloud.settings.config import SETTINGS, Between, Config, Setting, read_settings
from kachery_cloud.settings.config_file import MAX_CONFIG, make_private, write_private_text
from kachery_cloud.settings.names import about_unknown
from kachery_p2p.ownfiles import read_own_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NODE_FILE_NAME = "node.toml"
#: Characters of a line of the template.
_WIDTH = 100
_HEAD = """\
# Settings of kachery-cloud-node. Each is here as a comment with its default: take the "# " away to set it.
# An option of the command goes before a variable of the environment (KACHERY_CLOUD_...), that before this file, and
# this file before config.json. Other programs that use this data directory read config.json alone.
# kachery-cloud-node reload reads it again while the node runs, and says what needs a restart.
"""


class NodeFile:
    """A file in TOML, read and found to be one.

    Args:
        path: of it.

    Attributes:
        values: what stands in it, by the names of settings, not looked at any further.

    Raises:
        ConfigError: it is no TOML, or has a name that is no setting; the message has the line.
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._text = read_own_file(path, MAX_CONFIG).decode()
        except NotAFile as error:
            raise ConfigError(f"The settings of the node cannot be read: {error}") from None
        except FileNotFoundError:
            raise
        except UnicodeDecodeError as error:
            raise ConfigError(f"The settings file {path} is not UTF-8, from its byte {error.start} on.") from None
        except OSError as error:
            raise ConfigError(f"The settings file {path} cannot be read: {error.strerror or error}.") from error
        try:
            self.values: Mapping[str, Any] = tomllib.loads(self._text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(self._broken(error)) from None
        known = [setting.key for setting in SETTINGS.values() if setting.key]
        for key in self.values:
            if key not in known:
                hint = about_unknown(key, known)
                raise ConfigError(
                    f"{self.place(key)} is no setting. {hint}{' ' * bool(hint)}All of them: kachery-cloud settings"
                )

    def place(self, key: str) -> str:
        """Where a key stands, for messages."""
        line = self._line_of(key)
        return f"{key!r} in {self.path}" + (f", line {line}," if line else "")

    def _broken(self, error: Exception) -> str:
        text = str(error)
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", text)
        line = "" if found is None else found[1] or str(len(self._text.splitlines()))
        where = f", line {line}," if line else ""
        what = (text if found is None else text[: found.start()]) or "it goes too deep"
        return (
            f"The settings file {self.path}{where} is not TOML: {what}. A setting is written as NAME = VALUE, a "
            'text in "quotes", a list in [brackets].'
        )

    def _line_of(self, key: str) -> int:
        """The line in which a key begins; 0 where it cannot be told.

        A line that looks like it may stand in a text of several lines. Then what is before it is no TOML by itself.
        """
        name = re.escape(key)
        begins = re.compile(rf"\s*(?:\[\[?\s*)?(?:\"{name}\"|'{name}'|{name})\s*[=.\]]")
        lines = self._text.splitlines(keepends=True)
        for number, line in enumerate(lines):
            if begins.match(line):
                try:
                    if key not in tomllib.loads("".join(lines[:number])):
                        return number + 1
                except (tomllib.TOMLDecodeError, RecursionError):
                    continue
        return 0


def load_node_config(
    file: Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Config, dict[str, str]]:
    """The settings of `kachery-cloud-node`, and where each that is not the default comes from.

    Args:
        file: instead of `node.toml` in the data directory, which need not be there.
        environ: the environment; that of the process where it is None.

    Raises:
        ConfigError: one of the files cannot be read, or a setting makes no sense; the message names file and line.
        NoPermission: there is a secret in a file, and others' right to read it cannot be taken away.
    """

    def between(directory: Path) -> Between | None:
        path = directory / NODE_FILE_NAME if file is None else file
        try:
            found = NodeFile(path)
        except FileNotFoundError:
            if file is None:
                return None
            raise ConfigError(f"There is no settings file {path}. kachery-cloud-node --init writes one.") from None
        if any(has(found.values[name]) for name, has in _secrets() if found.values.get(name)):
            make_private(path)
        return Between(path.name, found.values, found.place)

    return read_settings(environ, between=between)


def _secrets() -> Iterator[tuple[str, Callable[[Any], bool]]]:
    """The settings that may hold a secret, and what tells whether they do."""
    for name, setting in SETTINGS.items():
        if setting.secret is not None:
            yield name, setting.secret


# --- the file that explains itself -----------------------------------------------------------------------------------


def write_template(path: Path) -> bool:
    """Write the commented defaults, if there is no such file; whether there was none.

    Raises:
        NoPermission, DiskFull: it cannot be written.
    """
    if path.exists():
        return False
    write_private_text(path, template())
    return True


def template() -> str:
    """The commented defaults, in TOML: with each "# " before a name taken away it is what holds without a file."""
    return _HEAD + "".join(_entry(setting) for setting in SETTINGS.values() if setting.key)


def _entry(setting: Setting[Any]) -> str:
    said = f"{_plain(setting.meaning)} Takes {_plain(setting.parser.takes)}. Default: {_plain(setting.default_text)}."
    text = "".join(f"## {line}\n" for line in textwrap.wrap(said, _WIDTH))
    return f"\n{text}# {setting.key} = {_default(setting)}\n"


def _default(setting: Setting[Any]) -> str:
    """The default in TOML: a value that means it when it is read."""
    if setting.default is None:
        return _toml(setting.parser.none or "off")
    if isinstance(setting.default, Mapping) or setting.parser.add is not None:
        return "{}"  # tables by name
    return _toml(setting.parser.show(setting.default))


def _toml(value: Any) -> str:
    """A default value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """Markdown as plain text."""
    return text.replace("`", "")
