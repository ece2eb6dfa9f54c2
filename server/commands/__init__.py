"""The command line.

Reading order: `cli`, `shared`, `token`, `export`, `move`, `doctor`, `price`.
"""
