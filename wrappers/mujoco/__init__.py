"""Gymnasium's robots stepped together, and MaMuJoCo's."""
