"""What an operator sees: readiness, metrics, logs.

Reading order: `readiness`, `metrics`, `storage_metrics`, `worker_metrics`, `loop_monitor`, `disk_check`,
`logs`.
"""
