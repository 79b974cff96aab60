"""Tiny CLIPs that this project pretrains and ships: their files, their training, and what they can do untrained."""
