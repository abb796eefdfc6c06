"""Algebra of low-rank factors: never a dense product where a QR will do."""
