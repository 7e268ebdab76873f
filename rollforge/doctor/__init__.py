"""Whether this machine, these files and this config will work: checks that continue after a problem."""
