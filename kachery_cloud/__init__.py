"""Share scientific data straight from one workstation to another.

    import kachery_cloud as kcl

    uri = kcl.store_file("/data/session.nwb")    # 'ipfs://bafybei...', the same for these bytes everywhere
    path = kcl.load_file(uri)                    # there: a path with exactly those bytes

Importing this package loads none of the machinery: a function is imported when it is first used.
"""

from __future__ import annotations

from kachery_cloud import errors
from kachery_cloud.errors import *  # noqa: F403
from kachery_p2p import __version__

# Names are listed where they are made, as far as that can be. Errors are light, so they are taken whole, and listed in
# `errors` alone. Functions are heavy, so they are named twice: here for type checkers and editors, and in `__all__` for
# Python, which looks for them in `_HOMES`. Neither list can fall behind the other: ruff reports a name that is only
# imported, pyright one that is only in `__all__`.

TYPE_CHECKING = False  # That of `typing`, which would double what this import takes.
if TYPE_CHECKING:
    import builtins

    from kachery_cloud import aio
    from kachery_cloud.answers import Announcement, Repaired, Status, WhereisRow
    from kachery_cloud.auditing import Access, Audit, access, audit
    from kachery_cloud.cars import export_car, import_car
    from kachery_cloud.comparing import Difference, Differences, diff
    from kachery_cloud.encryption.stanzas import Passphrase
    from kachery_cloud.figures.links import figure_link
    from kachery_cloud.figures.storing import store_figure
    from kachery_cloud.grouping import (
        Group,
        GroupMember,
        create_group,
        group_members,
        groups,
        invite,
        join_group,
        leave_group,
        remove_member,
        set_member_role,
    )
    from kachery_cloud.initialising import Initialised, init
    from kachery_cloud.inventory import Item, Items, UsageRow, UsageTable, du
    from kachery_cloud.inventory import list as list
    from kachery_cloud.inventory_move import move
    from kachery_cloud.inventory_removal import Collected, RemovedItem, gc, remove
    from kachery_cloud.inventory_tables import Table
    from kachery_cloud.lab_places import Project
    from kachery_cloud.lab_projects import (
        add_to_project,
        change_project,
        create_project,
        delete_project,
        join_project,
        projects,
        remove_from_project,
    )
    from kachery_cloud.lab_usage import LabUsage, usage
    from kachery_cloud.listing import DirEntry, FileInfo
    from kachery_cloud.load import (
        cat_file,
        list_dir,
        load_bytes,
        load_dir,
        load_file,
        load_file_info,
        load_json,
        load_npy,
        load_pkl,
        load_text,
    )
    from kachery_cloud.opening.file import KacheryFile
    from kachery_cloud.opening.file import open as open
    from kachery_cloud.opening.npy import NpyFile, open_npy
    from kachery_cloud.ownership.answering import owner
    from kachery_cloud.ownership.verifying import Owner
    from kachery_cloud.pin_rows import PinRow
    from kachery_cloud.pinning import pin, pins, unpin, wait_pinned
    from kachery_cloud.progress import Progress, progress_to
    from kachery_cloud.publishing import Published, publish, published, resolve
    from kachery_cloud.records import Record
    from kachery_cloud.settings.config import Config, load_config
    from kachery_cloud.sharing import get, share
    from kachery_cloud.store import (
        link_file,
        store_bytes,
        store_dir,
        store_file,
        store_json,
        store_npy,
        store_pkl,
        store_text,
    )
    from kachery_cloud.upkeep import announce, get_node_info, iter_whereis, repair, status, verify, whereis
    from kachery_cloud.uri import ContentURI, format_uri, join, parse_uri
    from kachery_cloud.visibility import set_visibility

__all__ = [
    "Access",
    "Announcement",
    "Audit",
    "Collected",
    "Config",
    "ContentURI",
    "Difference",
    "Differences",
    "DirEntry",
    "FileInfo",
    "Group",
    "GroupMember",
    "Initialised",
    "Item",
    "Items",
    "KacheryFile",
    "LabUsage",
    "NpyFile",
    "Owner",
    "Passphrase",
    "PinRow",
    "Progress",
    "Project",
    "Published",
    "Record",
    "RemovedItem",
    "Repaired",
    "Status",
    "Table",
    "UsageRow",
    "UsageTable",
    "WhereisRow",
    "__version__",
    "access",
    "add_to_project",
    "aio",
    "announce",
    "audit",
    "cat_file",
    "change_project",
    "create_group",
    "create_project",
    "delete_project",
    "diff",
    "du",
    "export_car",
    "figure_link",
    "format_uri",
    "gc",
    "get",
    "get_node_info",
    "group_members",
    "groups",
    "import_car",
    "init",
    "invite",
    "iter_whereis",
    "join",
    "join_group",
    "join_project",
    "leave_group",
    "link_file",
    "list_dir",
    "load_bytes",
    "load_config",
    "load_dir",
    "load_file",
    "load_file_info",
    "load_json",
    "load_npy",
    "load_pkl",
    "load_text",
    "move",
    "open_npy",
    "owner",
    "parse_uri",
    "pin",
    "pins",
    "progress_to",
    "projects",
    "publish",
    "published",
    "remove",
    "remove_from_project",
    "remove_member",
    "repair",
    "resolve",
    "set_member_role",
    "set_visibility",
    "share",
    "status",
    "store_bytes",
    "store_dir",
    "store_figure",
    "store_file",
    "store_json",
    "store_npy",
    "store_pkl",
    "store_text",
    "unpin",
    "usage",
    "verify",
    "wait_pinned",
    "whereis",
]
__all__ += errors.__all__

#: The modules that make what is not an error; each is imported when a name is looked for in it. The light ones first.
_HOMES = (
    "uri",
    "settings.config",
    "progress",
    "load",
    "store",
    "listing",
    "comparing",
    "cars",
    "pinning",
    "pin_rows",
    "sharing",
    "publishing",
    "grouping",
    "initialising",
    "lab_places",
    "lab_projects",
    "lab_usage",
    "upkeep",
    "answers",
    "inventory",
    "inventory_tables",
    "records",
    "visibility",
    "auditing",
    "inventory_removal",
    "inventory_move",
    "encryption.stanzas",
    "opening.file",
    "opening.npy",
    "ownership.verifying",
    "ownership.answering",
    "figures.storing",
    "figures.links",
)
#: Names that are there, and that `from kachery_cloud import *` does not bring: they are those of Python's own.
_NOT_FOR_STAR = ("list", "open")

if not TYPE_CHECKING:  # They would take any name for one that is here.

    def __getattr__(name: str) -> object:
        if name in __all__ or name in _NOT_FOR_STAR:
            from importlib import import_module

            if name == "aio":
                return import_module(f"{__name__}.aio")
            for home in _HOMES:
                module = import_module(f"{__name__}.{home}")
                value = getattr(module, name, None)
                # Others may have imported it, or call something else by the same name.
                if getattr(value, "__module__", None) == module.__name__:
                    globals()[name] = value
                    return value
        if not name.startswith("_"):
            from kachery_cloud.older_names import NAMES, REPLACED

            if name in NAMES:
                from importlib import import_module

                return getattr(import_module(f"{__name__}.older"), name)
            if name in REPLACED:
                raise AttributeError(f"kachery_cloud.{name} is not there any more. {REPLACED[name]}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> builtins.list[str]:
    return sorted({*__all__, *_NOT_FOR_STAR})
