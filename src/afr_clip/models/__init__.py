"""Methods as plain ``nn.Module`` networks: one folder each, shared parts next to them."""
