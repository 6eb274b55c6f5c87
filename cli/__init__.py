"""The command line: one file per command; the only place that parses flags, reads the environment, prints and exits."""
