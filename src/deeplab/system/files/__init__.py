"""Files as bytes, whatever they hold: what one seems to be, its check sums, its wire format. Without torch."""
