"""Tables, figures and pages on finished runs and grids, beside what the paper prints."""
