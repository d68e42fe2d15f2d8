"""A kit that teaches and reproduces modality imbalance, weight averaging and the modality gap."""
