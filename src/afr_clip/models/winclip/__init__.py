"""WinCLIP: prompt ensembles against windows of an image; nothing is trained."""
