"""Which process of a run this is, how processes start and meet, and what stops them."""
