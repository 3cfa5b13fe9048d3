"""Backup: all that a store holds as one file, and a store made of such a file."""
