"""`masklake schedule`: commands that run at set times. The store keeps schedules and their firings; the daemon runs them.

A scheduled command is parsed by that command's own parser. Nothing in this room knows what a command does.
"""
