"""The command `deltakit`: one verb a file; nothing here computes."""
