"""What only a GPU can show, in one command; see `__main__`. One file for each part, each a generator of rows."""
