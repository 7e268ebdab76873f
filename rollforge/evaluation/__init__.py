"""What ``test`` makes of curves: figures with their intervals, tables, plots, and what Lightning's loggers get."""
