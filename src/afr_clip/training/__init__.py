"""One LightningModule around any network, its callbacks and checkpoints. The only package that logs metrics."""
