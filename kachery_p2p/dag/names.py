"""Names in directories: which ones we write, and which ones may become files in a destination folder.

A folder that is made anew for a stranger's directory takes most names (`safe_name`): `.zattrs`, `-x.txt`. A folder that
is there already takes few (`outside_name`): there `.bashrc`, `-rf` and `CON` mean something.
"""

from __future__ import annotations

import re
import sys

from kachery_p2p.dag.limits import MAX_NAME_BYTES
from kachery_p2p.errors import InvalidName
from kachery_p2p.text import is_control

#: Device names that Windows takes for itself in every folder, with any extension.
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
_WINDOWS_CHARACTERS = frozenset('<>:"\\|?*')
#: Names of most files, which can stand in a folder everywhere but on Windows.
_USUAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
#: Unicode's control characters, and what ends a line or a paragraph (Cc, Zl, Zp), which no version of it will change.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

#: macOS keeps the icon that a user gave a folder in a file of this name; such a folder is to be shared like any other.
FINDER_ICON = "Icon\r"


def name_bytes(name: str) -> bytes:
    """The UTF-8 bytes of a name that may stand in a directory.

    Raises:
        InvalidName: the name is empty, '.' or '..', has a '/' or NUL in it, or is not Unicode (a file whose name on
            disk is not UTF-8).
    """
    shown = ascii(name)
    if name in ("", ".", ".."):
        raise InvalidName(f"{shown} cannot be the name of a file or directory.")
    if "/" in name or "\0" in name:
        raise InvalidName(f"The name {shown} contains '/' or a NUL character, which no directory can hold.")
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidName(f"The name {shown} is not valid UTF-8.") from None


def safe_name(name: str, *, windows: bool | None = None) -> str:
    """The name itself, when a file of that name can be made in a folder and stays in it.

    `windows` None means this machine.

    Raises:
        InvalidName: as for `name_bytes`; the name has over 255 bytes, or control characters, which would act on the
            terminal that lists the folder; on Windows also when it names a device, has reserved characters, or ends in
            a dot or space.
    """
    for_windows = sys.platform == "win32" if windows is None else windows
    if not for_windows and _USUAL.fullmatch(name):
        return name
    if len(name_bytes(name)) > MAX_NAME_BYTES:
        raise InvalidName(f"The name {name[:40]!a}... has more than {MAX_NAME_BYTES} bytes, too long for a file.")
    if name != FINDER_ICON and _CONTROL.search(name):
        raise InvalidName(f"The name {name!a} has a control character in it, which no file of ours gets.")
    if for_windows:
        if any(c in _WINDOWS_CHARACTERS or c < " " for c in name) or name[-1] in ". ":
            raise InvalidName(f"Windows has no files named {name!a}.")
        if name.split(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES:
            raise InvalidName(f"Windows keeps the name {name!a} for a device.")
    return name


def outside_name(name: str) -> str:
    """The name itself, when a stranger may choose it for a file in a folder that has other files.

    The same on every system, so that a name which passes here passes wherever the file goes next.

    Raises:
        InvalidName: it is not a plain name on some system: a hidden file, one that a command takes for an option or a
            home directory (`.x`, `-x`, `~x`), with separators or control characters (bidirectional ones, too), one that
            Windows keeps for a device or does not have, or one over 255 bytes.
    """
    if any(is_control(c) for c in name):
        raise InvalidName(f"The name {name!a} has a control character in it.")
    if name[:1] in (".", "-", "~"):
        raise InvalidName(
            f"The name {name!a} begins with '{name[0]}', which has a meaning for the system or the shell."
        )
    if "/" in name or "\\" in name:
        raise InvalidName(f"The name {name!a} leads into another folder.")
    if name != name.strip():
        raise InvalidName(f"The name {name!a} begins or ends with a blank.")
    return safe_name(name, windows=True)


def leads_out(target: str, depth: int) -> bool:
    """Whether a symbolic link may lead out of the directory that it is in, whatever other links it leads through.

    The steps up must come first: they then lead through real folders. After that every step is down, or into another
    link, for which the same holds. (`a/..` would leave the directory if `a` is a link to its top.)

    Args:
        target: what it points to.
        depth: how many folders of the directory it lies in, the top one not counted.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    steps_up = 0
    while steps_up < len(parts) and parts[steps_up] == "..":
        steps_up += 1
    return not target or "\0" in target or target.startswith("/") or steps_up > depth or ".." in parts[steps_up:]
