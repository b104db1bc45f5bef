"""Instruction and transcript in, a summary with checked evidence out."""
