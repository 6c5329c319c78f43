"""The ground: what is asked and what is issued. It knows no clock and no device."""
