"""The API over NATS: functions called on their subjects, and found by service discovery."""
