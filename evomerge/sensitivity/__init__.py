"""What is measured of models before they are merged, from calibration texts or from weights."""
