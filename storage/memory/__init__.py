"""Maps and locks in the memory of one process.

Reading order: `lru`, `ttl`, `single_flight`, `keyed_locks`, `popularity`, `bloom`,
`fair_share`.
"""
