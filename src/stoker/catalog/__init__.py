"""What exists: accounts and their tokens, collections, functions, versions and assets.

A fold of the event log into memory. Sees `model` and its own protocols; knows no HTTP and no NATS.
"""
