"""One node put together: started, stopped, and what it does beside serving and loading.

node        `Node`: starts everything in the right order, and stops it
discovery   how it finds others and is found: routing, reachability and relays
pins        the pinning worker, put to work on this node
whereis     who has a root, without loading it
ports       the same port at each start
options     what it is told to do; plain values
"""
