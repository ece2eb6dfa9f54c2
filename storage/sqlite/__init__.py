"""The embedded engine: the database and the log as two SQLite files.

Exactly one connection writes (and checkpoints) each file; readers are opened read-only.

Reading order: `database`, `log`, `connection`, `writer`, `apply`, `rows`, `models`, `search`, `leases`,
`files`, `migrate`.
"""
