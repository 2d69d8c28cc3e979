"""Certificates: what a method loses, bounded beforehand on calibration prompts and watched while it serves."""
