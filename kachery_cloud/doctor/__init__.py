"""`kachery-cloud-node doctor`: what is wrong with a set-up, in sentences, each with what to do.

Checks are a table (`examine.CHECKS`) of small functions. Each gets the same facts, and gives a report: a few words
where all is well, or findings. They run side by side, each with a bound of its own; one that fails itself says so, and
stops no other. Nothing is changed on the disk, and public services are asked only where the setting `public` is on.

findings    what a check says
facts       what all of them are given: settings, and the node that runs, if one does
examine     the table, and running it
reading     `config.json`, `node.toml` and variables, all mistakes at once
settings    what was found in them
machine     Python and what is installed, open files, the clock
directory   the data directory: rights, room, its file system, the key
databases   the databases in it, and files that are linked
listeners   ports and who has them, certificates
owners      which process listens on a port
node        what the node says of itself: reachability, DHT, announcements
network     the way out, multicast, peers and relays
services    pinning services and gateways: addresses, tokens, their clocks
text        for people
"""
