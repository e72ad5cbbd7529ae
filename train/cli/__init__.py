"""The command line: a function a command, and all that draws on the terminal."""
