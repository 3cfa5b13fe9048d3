# Made from stoker/client/_async by `python -m stoker.testing.mirror`: change it there.
"""The client that blocks."""
