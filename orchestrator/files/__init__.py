"""Files that can be relied on: written whole, read only as what they are, inside of the folder that they belong to."""
