"""One driver of one run: what it is made from, whether it may start, how it runs and ends; Ray and the workers."""
