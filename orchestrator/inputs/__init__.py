"""Data: problems and preference data from files and the Hub, read, checked and brought into one form."""
