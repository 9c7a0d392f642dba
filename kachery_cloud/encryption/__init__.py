"""Encryption of what leaves this machine: age v1 files (https://age-encryption.org/v1, C2SP age.md).

What is written here is opened by `age -d` and by every other age; what these write is opened here. Files for keys are
written by `pyrage`, which is Rust's age. It has no way to read a part of a file, nor to write one for a passphrase
piece by piece, so headers are read, and chunks decrypted, by our own code, with the primitives of `cryptography`.

`header` and `stream` are the format, `stanzas` how a file key is wrapped, `identities` the keys of this machine,
`recipients` whom a file is for. `writing` and `reading` put them together.
"""
