"""The client for asyncio and trio; the one that blocks is made from it (`stoker.testing.mirror`)."""
