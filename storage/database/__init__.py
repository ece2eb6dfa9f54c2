"""What every database does: contract, records, schema, rows, and who of several processes writes to it.

Reading order: `contract`, `records`, `schema`, `rows`, `queries`, `batches`, `migrate`, `migrations`,
`lease`, `health`, `pruning`.
"""
