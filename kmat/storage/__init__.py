"""Files that are whole or not there, in a folder that one process writes to, checked when they are read."""
