"""Share scientific data straight from one workstation to another.

    import kachery_cloud as kcl

    uri = kcl.store_file("/data/session.nwb")    # 'ipfs://bafybei...', the same for these bytes everywhere
    path = kcl.load_file(uri)                    # there: a path with exactly those bytes

Importing this package loads none of the machinery: a name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kachery_p2p import __version__

if TYPE_CHECKING:
    from kachery_cloud.errors import (
        AddressInUse,
        ConfigError,
        ContentNotFound,
        DamagedFile,
        DialError,
        DiskFull,
        FileChanged,
        FileExists,
        FileMissing,
        FormatError,
        HashMismatch,
        IdentityError,
        InvalidAddress,
        InvalidArgument,
        InvalidCID,
        InvalidName,
        InvalidPinService,
        InvalidProfile,
        InvalidRange,
        InvalidURI,
        IsADirectory,
        KacheryError,
        MalformedDag,
        NodeError,
        NoPermission,
        NotADirectory,
        NotAFile,
        NotSerializable,
        PathNotFound,
        PinningError,
        PinTooLarge,
        RepoError,
        StoreTooLarge,
        StreamError,
        SwarmKeyError,
        UnsafePickle,
        UnsupportedCID,
    )
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
    from kachery_cloud.pinning import pin, pins, unpin, wait_pinned
    from kachery_cloud.settings.config import Config, load_config
    from kachery_cloud.store import link_file, store_dir, store_file, store_json, store_npy, store_pkl, store_text
    from kachery_cloud.upkeep import announce, get_node_info, init, repair, status, verify, whereis
    from kachery_cloud.uri import ContentURI, format_uri, join, parse_uri

__all__ = [
    "AddressInUse",
    "Config",
    "ConfigError",
    "ContentNotFound",
    "ContentURI",
    "DamagedFile",
    "DialError",
    "DiskFull",
    "FileChanged",
    "FileExists",
    "FileMissing",
    "FormatError",
    "HashMismatch",
    "IdentityError",
    "InvalidAddress",
    "InvalidArgument",
    "InvalidCID",
    "InvalidName",
    "InvalidPinService",
    "InvalidProfile",
    "InvalidRange",
    "InvalidURI",
    "IsADirectory",
    "KacheryError",
    "MalformedDag",
    "NoPermission",
    "NodeError",
    "NotADirectory",
    "NotAFile",
    "NotSerializable",
    "PathNotFound",
    "PinTooLarge",
    "PinningError",
    "RepoError",
    "StoreTooLarge",
    "StreamError",
    "SwarmKeyError",
    "UnsafePickle",
    "UnsupportedCID",
    "__version__",
    "announce",
    "cat_file",
    "format_uri",
    "get_node_info",
    "init",
    "join",
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
    "parse_uri",
    "pin",
    "pins",
    "repair",
    "status",
    "store_dir",
    "store_file",
    "store_json",
    "store_npy",
    "store_pkl",
    "store_text",
    "unpin",
    "verify",
    "wait_pinned",
    "whereis",
]

_MODULES = {
    "settings.config": ("Config", "load_config"),
    "upkeep": ("announce", "get_node_info", "init", "repair", "status", "verify", "whereis"),
    "load": (
        "cat_file",
        "list_dir",
        "load_bytes",
        "load_dir",
        "load_file",
        "load_file_info",
        "load_json",
        "load_npy",
        "load_pkl",
        "load_text",
    ),
    "pinning": ("pin", "pins", "unpin", "wait_pinned"),
    "store": ("link_file", "store_dir", "store_file", "store_json", "store_npy", "store_pkl", "store_text"),
    "uri": ("ContentURI", "format_uri", "join", "parse_uri"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
