"""The report: one page that holds all it shows and asks nothing of the network."""
