"""The commands of the command line, each a module: a function of the parsed arguments that returns the exit status."""
