"""What happened, as columnar tables: written by executors, read by metrics, reports and traces."""
