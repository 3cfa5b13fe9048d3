"""What happened, per account: invocation records and their logs."""
