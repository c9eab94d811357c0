"""`masklake query`: SQL over a lake in a sandbox, with results in several formats.

The sandbox serves every command that takes SQL from a user.
"""
