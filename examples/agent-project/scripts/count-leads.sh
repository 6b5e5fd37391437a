#!/bin/sh
# Prints how many leads there are.
wc -l <"$(dirname "$0")/../data/leads.jsonl"
