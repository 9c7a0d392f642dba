"""The lab's own node: who its members are, what their clients may do, and the page that shows it.

lab         what each part gets: who asks, the database, the node
app         all routes as one ASGI application; /pins and the health of the node go to the pinning service
server      the listener, and what is done beside
database    lab.sqlite, in which each part has tables of its own
answers     refusals, bodies, lists: what all routes have in common
members     who may sign in (table); clients: the computers of members (table)
sessions, invitations, registrations    how people and computers come in (tables, each with its routes)
sign_in, openid                         signing in at an OpenID provider
signed_requests                         requests that a client signs with its key (RFC 9421)
projects_rules                          who may do what with projects and files; no input or output
projects_store, projects, projects_api  the list of projects (table); with their groups and pins; their routes
files, files_api                        what members have pinned and uploaded, and its content; its routes
usage_store, usage_api, node_api        who uses what; how the node is
"""
