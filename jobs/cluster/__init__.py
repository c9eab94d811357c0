"""Ray for the length of a command: started in this process, or a cluster that is joined; and notes while a command waits.

Nothing in this room knows what runs on Ray.
"""
