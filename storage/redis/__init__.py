"""The shared tier and the log on Redis or Valkey, for any number of processes."""
