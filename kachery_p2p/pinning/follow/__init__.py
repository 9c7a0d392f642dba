"""Following another node: what is pinned there becomes pinned here.

plan       how its list is gone through, page by page. No input or output
remote     asks it, and reads what it answers
follower   does so again and again

What was learned is in the tables of `kachery_p2p.pinning.server.following`.
"""
