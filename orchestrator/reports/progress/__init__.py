"""What a driver is doing right now: kept on a board, shown on a terminal, in lines, and in `progress.json`."""
