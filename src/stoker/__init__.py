"""stoker: a serverless function platform that people run themselves."""

__version__ = "0.1.0"
