"""The HTTP framework of the service. It knows no resource: those are in `server/api`.

Reading order: `routes`, `request`, `query`, `fields`, `headers`, `body`, `json_body`, `responses`,
`ready_response`, `coding`, `hot_path`, `file_response`, `problems`, `idempotency`, `keys`.
"""
