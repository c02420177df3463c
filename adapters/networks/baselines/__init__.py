"""Networks of others, to compare with."""
