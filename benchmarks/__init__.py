"""Measurements, their recorded results, and the report that makes every table and plot of the documents from them."""
