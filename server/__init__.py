"""The outside of Facet: HTTP, pages, processes and the command line. `app` is the composition root; `config`
alone reads the environment.

Reading order: `config`, `app`, `engines`, `open_servers`, `links`, `backups`, `garbage_collector`, `http`,
`uploads`, `jobs`, `prices`, `observability`, `api`, `pages`, `process`, `demo`, `commands`, `__main__`.
"""

VERSION = "0.1.0"
