"""Bytes by URI on any storage: S3, Google Cloud, Azure, directories, and whatever else fsspec opens.

It takes URIs and bytes, and gives objects, or errors that a user can read. Nothing here knows what a lake is.
"""
