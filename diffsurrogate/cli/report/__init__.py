"""`diffsurrogate report`: all runs in a folder, as a table, pictures and a page."""
