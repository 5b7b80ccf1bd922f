"""What things cost: ratios, measured interleaved in one run."""
