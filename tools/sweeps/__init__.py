"""What tools/sweep.py is made of: cells, the devices they get, their runs, and the table over them."""
