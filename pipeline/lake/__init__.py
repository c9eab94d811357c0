"""What a lake keeps and who may change it: run records, the registry of models, locks, reading with the commit rule.

It takes a storage; nothing here starts work, and nothing here knows Ray.
"""
