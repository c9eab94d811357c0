"""Output for people and programs: printable text, tables, JSON, lines of a log.

Nothing in this room knows a command.
"""
