"""The egress broker: a process of its own, without privilege, through which functions reach the world."""
