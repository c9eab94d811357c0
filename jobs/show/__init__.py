"""`masklake show`: one image of a lake, or those of a query, as PNG with what was detected or labelled."""
