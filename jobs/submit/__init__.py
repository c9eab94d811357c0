"""`masklake submit` and `masklake jobs`: run commands on a Ray cluster, through its job server.

Nothing in this room sends a credential.
"""
