"""Tables and pages in each output format."""
