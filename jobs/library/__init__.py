"""Masklake as a library: what `import masklake` gives to a notebook.

`face.py` is `masklake/__init__.py`; it imports nothing until a name is asked for.
"""
