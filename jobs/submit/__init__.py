"""`masklake submit` and `masklake jobs`: commands on a Ray cluster, through its job server.

No credential leaves this machine from here.
"""
