"""The ablation tables of the paper, the readings and a search, from what a sweep left behind."""
