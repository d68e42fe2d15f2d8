"""Training any method on any data: the loop, runs that are kept, tables of what they scored."""
