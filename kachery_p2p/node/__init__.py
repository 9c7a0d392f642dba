"""One node put together: started, stopped, and what it does beside serving and loading."""
