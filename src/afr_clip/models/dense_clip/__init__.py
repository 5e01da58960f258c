"""DenseCLIP: texts that attend to the image before its pixels are compared with them (Rao et al., arXiv:2112.01518)."""
