"""What is made of runs that are there: reports."""
