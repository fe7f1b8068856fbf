"""Descriptions of the shipped workflows, and what turns a description into files. Standard library only."""
