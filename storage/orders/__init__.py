"""The contract of orders: records, statuses, roles and rules.

Reading order: `order`, `fields`, `workflow`, `actors`, `rules`, `new_order`, `search`, `filters`, `encoded`,
`unknown_fields`.
"""
