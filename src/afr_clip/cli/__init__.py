"""How a command starts and ends."""
