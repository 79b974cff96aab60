"""The commands, each a dataclass whose fields are its options."""
