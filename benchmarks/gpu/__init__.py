"""fgwot on one CUDA card, beside the libraries, its peers and the CPU: `python -m benchmarks.gpu`."""
