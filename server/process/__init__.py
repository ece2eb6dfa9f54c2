"""Processes and sockets: one server, several workers on one socket, commands that talk to them.

Reading order: `serve`, `listening`, `connections`, `turns`, `workers`, `control`.
"""
