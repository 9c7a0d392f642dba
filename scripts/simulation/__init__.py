"""A network of DHT nodes in virtual time, without sockets: what lookups and announcing cost, how often they work."""
