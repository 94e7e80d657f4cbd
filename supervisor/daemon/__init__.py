"""The daemon: registry → bind each running row to its process → wait for exits → settle.

Imports neither wrap nor the command line.
"""
