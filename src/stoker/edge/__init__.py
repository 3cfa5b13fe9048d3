"""Credential in, envelope out, error to status code."""
