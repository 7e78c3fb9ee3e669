"""Where samples come from: digits, MNIST and Fashion-MNIST, event recordings, and their encodings."""
