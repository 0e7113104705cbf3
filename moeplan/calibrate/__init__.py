"""Coefficients of the cost law and the spread around it, fitted from measurements."""
