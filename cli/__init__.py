"""The command line, one file per command.

Only this package parses flags, reads the environment, prints and exits.
"""
