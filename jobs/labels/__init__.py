"""`masklake labels`: import, export, statistics and checks of the lake's labels."""
