"""The change log on Redis or Valkey, for any number of processes.

Reading order: `keys`, `scripts`, `change_log`, `append_queue`, `follower`, `epochs`, `batched_reads`,
`outbox`, `shared_cache`, `locks`, `connection`, `endpoint`, `server_check`.
"""
