"""Entropic Fused Gromov-Wasserstein optimal transport for PyTorch."""
