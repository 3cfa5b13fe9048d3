"""The Model Context Protocol: functions as tools of an AI agent, and tools that manage functions."""
