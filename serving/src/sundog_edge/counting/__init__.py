"""Counts of requests, from HAProxy's log lines and tables to the evidence document."""
