"""`masklake demo`: the whole job on this machine, against an S3 server on the loopback."""
