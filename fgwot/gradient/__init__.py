"""The gradient of the energy at a plan."""
