"""Orders and what is kept of them: the log, the caches in front of the database, the database. Imports
neither `server` nor `pricing`.

Reading order: `errors`, `clock`, `bounds`, `ids`, `tasks`, `trouble`, `data_directory`, `memory`, `shared`,
`orders`, `log`, `database`, `cache`, `models`, `sqlite`, `embedded`, `redis`, `postgresql`, `services`.
"""
