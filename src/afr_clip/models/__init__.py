"""Methods as plain ``nn.Module``s: one folder each, shared parts beside them."""
