"""The version of Bema: all of its distributions carry the same."""

VERSION = "0.1.0"
