"""Mathematical answers: their kinds, LaTeX to SymPy, and what is equal to what."""
