"""The command line: main.py dispatches, options.py parses, say.py speaks, and each command is a file."""
