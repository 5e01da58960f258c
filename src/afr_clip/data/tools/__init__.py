"""Commands for datasets: check, convert, unpack."""
