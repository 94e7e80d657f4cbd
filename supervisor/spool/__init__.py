"""What could not be written into its store, kept as files of this user until it can be.

`files` and `content` are light, for ``wrap`` keeps the beginning of a run before its agent starts; `applying` is for
the daemon and the commands.
"""
