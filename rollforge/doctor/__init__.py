"""Whether this machine, these files and this config will work: checks that go on after a problem."""
