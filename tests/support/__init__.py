"""What the tests that need a live process share: targets, the engine as a child process, cores, readers, checks."""
