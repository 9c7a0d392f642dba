"""The IPFS Pinning Service API 1.0.0, served (https://ipfs.github.io/pinning-services-api-spec/).

A node that stays on keeps for others what they ask it to keep. What they ask for is on the disk before they are
answered; a queue works it off, a few at a time, and goes on where it was after a restart or a kill.

requests    what a request says: a pin object, or filters. No input or output
store       tokens, pins and what is to be let go, in one SQLite file
rows        the tables of that file, and what a row says
keeper      what this needs of the node, as a protocol
forms       forms with files, read as they come
imports     CAR files that are sent (`/api/v0/dag/import`)
queue       fetches what is queued, lets go what nobody has pinned any more
app         the API as an ASGI application
metrics     figures for Prometheus, and whether all is well
service     put together
limits      every bound
"""
