"""NATS with JetStream: the embedded server, the connection, the event log, the blobs, the store's guard.

Knows no noun of the domain: accounts are a token of a subject, events are bytes.
"""
