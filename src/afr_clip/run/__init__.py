"""What the commands do once their config is known to be good: build the parts, train, score, write."""
