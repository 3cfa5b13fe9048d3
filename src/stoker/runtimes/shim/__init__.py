"""The programs that run inside an instance, one file a language, and nothing that the host calls."""
