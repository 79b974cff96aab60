"""Large problems between structures of low rank, whose plans are never stored."""
