"""One node put together: started, stopped, and what it does beside serving and loading.

node        `Node`: starts everything in the right order, and stops it
loading     loads, with the rights of the user; members whom they may ask are found out in `members`
public_loads  loads for strangers, of what everybody may have
discovery   how it finds others and is found: routing, reachability and relays
dialling    getting to peers
pins        the pinning worker, put to work on this node
whereis     who has a root, without loading it
status      what discovery is doing
messages    what a node is asked, and what it answers
ports       the same port at each start
options     what it is told to do; plain values
"""
