"""Each rule of the protocol, removed once, and the test that notices."""
