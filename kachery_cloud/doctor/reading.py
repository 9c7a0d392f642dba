"""`config.json`, `node.toml` and environment variables, read to the end: what is wrong with each setting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kachery_cloud.doctor.findings import Finding
from kachery_cloud.errors import ConfigError, KacheryError
from kachery_cloud.settings.config import SETTINGS, Config
from kachery_cloud.settings.config_file import CONFIG_NAME, read_config_file
from kachery_cloud.settings.names import about_unknown
from kachery_cloud.settings.node_file import NODE_FILE_NAME, NodeFile
from kachery_p2p.text import shown

_PREFIX = "KACHERY_CLOUD_"
#: Variables that are no settings, by what stands behind the prefix, and beginnings of such.
_OTHERS = ("IDENTITY", "PASSPHRASE", "PASSPHRASE_FILE", "PIN_TOKEN", "KEEP_TEMP_FILES", "PROJECT")
_OTHER_BEGINNINGS = ("PIN_TOKEN_", "FOLLOW_TOKEN_")


@dataclass(frozen=True)
class ReadSettings:
    """Settings, as far as they can be read.

    Attributes:
        config: those that can; the default stands in the place of the others.
        findings: what is wrong.
        count: how many are set.
    """

    config: Config
    findings: tuple[Finding, ...] = ()
    count: int = 0


def read_all(environ: Mapping[str, str]) -> ReadSettings:
    """Read all settings as `load_config` does, but go on after a mistake, and change no modes of files."""
    findings: list[Finding] = []
    directory = _directory(environ, findings)
    path = directory / CONFIG_NAME
    stored: dict[str, Any] = {}
    try:
        stored = read_config_file(path)
    except KacheryError as error:
        findings.append(
            Finding(
                str(error),
                "No command runs, and no node starts, before it can be read.",
                f"Correct it (python3 -m json.tool {path} shows where it breaks), or move it away: the next command "
                "uses the defaults then.",
            )
        )
    known = [setting.key for setting in SETTINGS.values() if setting.key]
    findings += [_unknown_key(key, known, path) for key in stored if key not in known]
    file = _node_file(directory / NODE_FILE_NAME, findings)
    chosen: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        text, kept = environ.get(setting.variable, "") if setting.key else "", stored.get(name)
        origin = f"{name!r} in {path}"
        try:
            if file is not None and name in file.values and (setting.parser.add or not text.strip()):
                origin = file.place(name)
                chosen[name] = setting.parser.read(file.values[name], origin)
            elif kept is not None and setting.key and (setting.parser.add or not text.strip()):
                chosen[name] = setting.parser.read(kept, origin)
            origin = setting.variable
            if text.strip() and setting.parser.add:
                chosen[name] = setting.parser.add(chosen.get(name, setting.default), text, setting.variable)
            elif text.strip():
                chosen[name] = setting.parser.read(text, setting.variable)
        except KacheryError as error:
            findings.append(_wrong_value(error, origin, setting.parser.takes, setting.meaning))
    findings += _unknown_variables(environ)
    return ReadSettings(Config(directory=directory, **chosen), tuple(findings), len(chosen))


def _directory(environ: Mapping[str, str], findings: list[Finding]) -> Path:
    place = SETTINGS["directory"]
    text = environ.get(place.variable, "")
    try:
        return place.parser.read(text, place.variable)
    except ConfigError as error:
        findings.append(
            Finding(str(error), "Nothing can be stored or loaded there.", f"Set {place.variable} to a folder.")
        )
        return Path(os.path.abspath(os.path.expanduser(text.strip())))


def _node_file(path: Path, findings: list[Finding]) -> NodeFile | None:
    try:
        return NodeFile(path)
    except FileNotFoundError:
        return None
    except KacheryError as error:
        findings.append(
            Finding(
                str(error),
                "kachery-cloud-node does not start before it can be read.",
                f"Correct it, or move {path} away. A commented file is written by: kachery-cloud-node --init",
            )
        )
        return None


def _unknown_key(key: str, known: list[str], path: Path) -> Finding:
    return Finding(
        f"The settings file {path} has the unknown key {shown(key)}.",
        "No command runs, and no node starts, with a key that means nothing: what it was to do would silently not be "
        "done.",
        f"{about_unknown(key, known)} Correct or remove it. All keys: kachery-cloud settings".strip(),
    )


def _wrong_value(error: KacheryError, origin: str, takes: str, meaning: str) -> Finding:
    plain = takes.replace("`", "")
    return Finding(
        str(error),
        f"No command runs, and no node starts, before it makes sense. What it is for: {meaning.replace('`', '')}",
        f"Correct {origin}: it takes {plain}. Or remove it, for the default.",
    )


def _unknown_variables(environ: Mapping[str, str]) -> list[Finding]:
    known = [setting.key for setting in SETTINGS.values() if setting.key]
    every = {SETTINGS["directory"].variable, *(_PREFIX + name.upper() for name in known)}
    every |= {_PREFIX + name for name in _OTHERS}
    findings: list[Finding] = []
    for name in sorted(environ):
        ending = name.removeprefix(_PREFIX)
        if name in every or ending.startswith(_OTHER_BEGINNINGS) or not name.startswith((_PREFIX, "KACHERY_ZONE")):
            continue
        findings.append(
            Finding(
                f"The environment variable {name} is set, and no setting has that name.",
                "It does nothing, whatever it was meant to do.",
                f"{about_unknown(ending, known)} Correct or unset it. All names: kachery-cloud settings".strip(),
                grave=False,
            )
        )
    return findings
