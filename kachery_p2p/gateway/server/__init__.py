"""The trustless and path gateway that a node may offer over HTTP.

server      the sockets, and the HTTP server (hypercorn) behind them
app         the gateway as an ASGI application
paths       what a request asks for, and whether it may be answered
request     the headers that its answers have in common, and what errors mean
content     what is given out: blocks of the repo, and what the node fetches
formats     what a path leads to, in each form; `cars`, `tar`, `ipld` and `pages` are those that are made here
ranges      parts of files, and answers that need not be sent again
replies     status, headers and body
limits      every bound
"""
