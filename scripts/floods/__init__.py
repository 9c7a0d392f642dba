"""Floods: what honest peers of a node notice while others send it as much cheap work as they can.

`python -m scripts.floods` starts a node, an honest peer and one flood after the other, each a process of its own on
loopback, and prints what the honest peer saw. Each flood ends by itself.
"""
