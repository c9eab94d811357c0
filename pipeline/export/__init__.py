"""What a lake holds, written in the formats of other tools: a module a format, which sees one image after the other.

May come in: label sets, masks, storage. The caller says where images come from (`masklake.jobs.export` reads them by SQL).
Nothing here names a file after an object's key: keys are hostile text.
"""
