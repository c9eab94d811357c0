"""`masklake schedule`: commands at set times; a store, a daemon, and firings that survive both.

A command line is understood by the command's own parser; nothing here knows what commands do.
"""
