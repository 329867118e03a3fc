"""The pure core: values in, values out.  No clock, no chance, no input or output."""
