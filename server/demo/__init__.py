"""`facet demo` and `facet tour`: a workshop with weeks of history, and every promise shown on it.

Reading order: `demo`, `tour`, `servers`, `private_servers`.
"""
