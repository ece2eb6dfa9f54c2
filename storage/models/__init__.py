"""Models: facts held by their hash, computed once, on their way to the database; and their files.

Reading order: `cache`, `compute_once`, `shared`, `write_queue`, `backlog`, `files`.
"""
