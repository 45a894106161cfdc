"""The command line `packhorse`."""
