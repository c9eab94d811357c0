"""Ray for the length of a command: embedded or joined, and what a command waits for.

Nothing here knows what is run on it.
"""
