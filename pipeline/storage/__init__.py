"""Bytes by URI, whatever the storage: S3, directories, and what else fsspec opens.

In come URIs and bytes, out come objects and errors that a user can read. Nothing here knows what a lake is.
"""
