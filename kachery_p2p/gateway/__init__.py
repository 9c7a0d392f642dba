"""Trustless HTTP: IPFS blocks over plain web servers (Trustless Gateway specification).

client/     fetching blocks from gateways, none of which is believed
server/     serving what this node has, as a gateway
"""
