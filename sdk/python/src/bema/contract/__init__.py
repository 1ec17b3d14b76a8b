"""The contract: what every part of Bema agrees on. Pure: the standard library and pydantic."""
