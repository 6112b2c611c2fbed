"""mt-copier: copies a MetaTrader account's positions to other accounts, exactly once and explained."""

__version__ = "0.1.0"
