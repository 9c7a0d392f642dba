"""The node of a data directory, as the processes that share it see it: started on need, spoken to by a socket."""
