"""Robots of the SHAC paper on MuJoCo MJX, with the gradients of its physics."""
