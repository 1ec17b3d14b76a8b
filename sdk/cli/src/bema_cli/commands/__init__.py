"""The commands: doors between a terminal and the modules beside this package."""
