"""The database in PostgreSQL, for any number of processes.

Readers share a few connections; batches of the log go through one connection of their own, so that a write
that hangs holds up no read. Every wait for the server has a deadline.

Reading order: `database`, `connection`, `writer`, `apply`, `rows`, `search`, `framing`, `migrate`,
`transfer`, `examine`.
"""
