"""Which process of a run this is, how the processes start and meet, and what stops them."""
