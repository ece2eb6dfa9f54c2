"""The contract of orders: records, statuses, roles and rules.

Reading order: `order`, `workflow`, `actors`, `rules`, `filters`, `encoded`, `unknown_fields`.
"""
