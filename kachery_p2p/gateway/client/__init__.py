"""The client of HTTP gateways: what they have, checked, and how each of them does."""
