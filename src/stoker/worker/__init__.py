"""Instances: the pool, spares, eviction, the code cache; joins a runtime to a sandbox.

Sees `runtimes`, `sandbox` and `model`; knows no HTTP and no NATS.
"""
