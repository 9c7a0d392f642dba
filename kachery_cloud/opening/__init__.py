"""Files that are opened without being loaded: a read fetches the blocks that it touches.

    file     `open` and `KacheryFile`
    content  the bytes of one file, here or elsewhere, for reads from any thread
    asking   waiting for the node, in a thread or in an event loop
    plan     which bytes are here, on their way, wanted next. No I/O
    extents  sets of bytes
    entries  what is at the paths of a folder, for `kachery_cloud.filesystem`
    npy      `open_npy`: slices of an array
    limits   how much is read ahead

What was fetched is in the partial file of the data directory (`kachery_p2p.repo.download`), where the node has put and
checked it, so a later load goes on from there. A file that is here as a whole is read from its path, without the node.
"""
