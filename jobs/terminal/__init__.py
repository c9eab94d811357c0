"""Text for people and programs: printable text, tables, JSON, lines of a log.

Nothing here knows a command.
"""
