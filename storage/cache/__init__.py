"""The caches in front of the database: read-through and write-behind side by side, and lists that follow the
log.

Reading order: `read_through`, `write_behind`, `local_orders`, `list_views`, `view_cache`, `snapshots`.
"""
