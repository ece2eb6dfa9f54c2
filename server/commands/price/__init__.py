"""`facet price`: files priced without a server.

Reading order: `run`, `arguments`, `sources`, `rows`, `progress`.
"""
