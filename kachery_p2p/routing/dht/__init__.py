"""The Kademlia DHT of libp2p, client and server. See README.md beside this file."""
