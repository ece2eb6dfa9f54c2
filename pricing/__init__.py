"""From the bytes of a model file to a price. Knows no HTTP and no SQL.

Reading order: `errors`, `units`, `facts`, `jit`, `readers`, `mesh`, `price`, `pool`, `sample_ring`.
"""
