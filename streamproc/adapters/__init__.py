"""The world outside the core, one library to a module; none of them imports another."""
