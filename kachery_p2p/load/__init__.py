"""One request of the user: what is on disk, what is missing, whom to ask, and when to give up.

load        `Load`: a file, a range of one, or a path through directories
public      a load for somebody unknown, who may have what everybody may
directory   a whole directory: its listing, and its files, many at once
keeper      puts what arrives of it into the repo, while more arrives
transfer    the bytes of one file, into its partial file
downloads   the partial files that are open, one for all loads of one CID
arriving    what is in them already, for others
peers       whom to ask: the peers it was told of, and those that routing finds
gateways    the HTTP gateways of the node, as sources of the block exchange
errors      what a load says when it gives up
interfaces  what these know of each other, and what a load is given

A load has one session of the block exchange (`kachery_p2p.bitswap`), which asks peers and gateways for what is missing.
"""
