"""From the bytes of a model file to a price. Knows no HTTP and no SQL.

Reading order: `errors`, `units`, `facts`, `jit`, `readers`, `mesh`, `price`, `second_opinion`, `pool`,
`sample_ring`.
"""
