"""Counts of requests, from HAProxy's lines and tables to the evidence document."""
