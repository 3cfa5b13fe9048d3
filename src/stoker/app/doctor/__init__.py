"""The doctor: what of isolation, limits and durability this machine really enforces, found by trying it."""
