"""Announces what the repo has, again and again, at a cost that does not grow with its size.

announcer   `Announcer`: what the node uses; one or more targets, such as the public DHT and that of the LAN
target      one target: what is urgent, what is due, and who is new
batch       one batch of keys: the closest peers are found, the records delivered
greet       peers of the LAN that are new are given what they should have
state       what was announced when, in the routing database
limits      every bound
"""
