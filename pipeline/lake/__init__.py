"""What a lake keeps and who may change it: run records, the registry of models, locks, reading with the commit rule.

In comes storage; nothing here starts work, and Ray is not known here.
"""
