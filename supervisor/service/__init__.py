"""The daemon as a service of the user's own service manager: rendered, installed, asked after, removed.

Rendering is pure; what is done to the system goes through one runner of commands. Nothing here prints.
"""
