"""One LightningModule around any network, its callbacks and checkpoints. The only room that logs metrics."""
