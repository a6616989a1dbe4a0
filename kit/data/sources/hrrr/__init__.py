"""HRRR, NOAA's 3 km analyses of the contiguous United States."""
