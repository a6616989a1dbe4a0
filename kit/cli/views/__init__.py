"""What people see of results and of progress, on standard error."""
