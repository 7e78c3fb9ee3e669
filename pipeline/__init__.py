"""The cheapest spiking neural network that is still accurate: search, price, select, prove."""
