"""Who stands behind a machine: proofs that a user of an OpenID provider, such as Google, owns its key.

- `claims`: what a client says of its key; the nonce of its sign-in commits to that
- `proofs`: an ID token with such a nonce, and what the client signed: a proof
- `verifying`: who a proof says it was, from the issuer's keys alone, or why it says nothing
- `archive`: the keys of issuers, kept with the time when they were fetched
- `kept`: the files in the data directory
- `openid`: the provider's side: discovery, authorization code with PKCE, tokens
- `redirect`: the one request of a browser that brings the code, on a loopback port
- `sign_in`: signing in, on a terminal or in a notebook
- `registering`: signing in at a lab's node
- `answering`: `kcl.owner`: whom this machine, or another one, belongs to

The format is that of OpenPubkey's PK token (https://eprint.iacr.org/2023/296), for the Ed25519 key of a peer ID.
"""
