"""fgwot against its peers: time to the same accuracy."""
