"""Names of the older kachery-cloud (0.1 to 0.4); see `kachery_cloud.older`. Light, for `kachery_cloud` looks here."""

from __future__ import annotations

#: Names that work.
NAMES = {
    "TemporaryDirectory",
    "get_client_id",
    "get_kachery_cloud_dir",
    "get_mutable_local",
    "set_mutable_local",
    "sha1_of_dict",
    "store_file_local",
    "store_json_local",
    "store_npy_local",
    "store_pkl_local",
    "store_text_local",
}
#: Names that cannot work any more, since the service behind them is gone; and what to do instead.
REPLACED = {
    "access_group_encrypt": "Store it encrypted, for a group or for keys of colleagues: docs/encryption.md.",
    "admin_delete_file": "There is no service to delete from: what is here is in your own data directory.",
    "create_feed": "There are no feeds. Store each part by itself, and a list of their URIs with store_json.",
    "decrypt_uri": "Loading decrypts where this machine has a key: docs/encryption.md.",
    "delete_mutable": "There are no mutables but those of this machine: set_mutable_local.",
    "delete_mutable_folder": "There are no mutables but those of this machine: set_mutable_local.",
    "encrypt_uri": "Store the file encrypted, for a group or for keys of colleagues: docs/encryption.md.",
    "get_mutable": "There are no mutables but those of this machine: get_mutable_local.",
    "get_project_id": "A project is one of your lab's node: projects(), and store_file(..., project=NAME).",
    "load_feed": "There are no feeds. Load a list of URIs with load_json, and each part by itself.",
    "load_file_local": "Use load_file(uri, local_only=True).",
    "request_file": "There is nothing to ask for: load_file fetches from whoever has the file.",
    "set_mutable": "There are no mutables but those of this machine: set_mutable_local.",
    "share_local_files_experimental": "Leave `kachery-cloud-node` running: it serves what is stored here.",
    "use_sandbox": "Set KACHERY_CLOUD_DIR to a temporary folder before the first call: "
    "os.environ['KACHERY_CLOUD_DIR'] = tempfile.mkdtemp().",
}
