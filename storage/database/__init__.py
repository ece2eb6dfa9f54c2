"""What every database does: contract, records, schema, rows, and who of several processes writes to it.

Reading order: `contract`, `records`, `reads`, `schema`, `order_rows`, `rows`, `search_sql`, `queries`,
`batches`, `job_queue`, `migrate`, `migrations`, `lease`, `health`, `pruning`, `search_upkeep`.
"""
