"""The way to NATS. The only package that imports its client; everything else speaks to these modules."""
