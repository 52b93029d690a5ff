"""
Measure milepost beside the floor, the least work that SQLite can do for the same result.

    pytest benchmarks                        the full dose, stores of up to 1,000,000 checkpoints: about 5 minutes
    pytest benchmarks -q --quick             a small dose, up to 100,000: under a minute
    pytest benchmarks -m long                lookups and opening at 10,000,000: needs 5 GB of disk, about 5 minutes
    python -m benchmarks.growth              curves over the size of the store, as a table and a picture
    python -m benchmarks.forensics           the cost of questions about a large file
    python -m benchmarks.litestream          what the death of a machine loses that Litestream replicates

Each `bench_<word>.py` asks one question. It measures milepost and the floor (`floor.py`) in turns, in one process and on
one disk. The table at the end has the ratios. A slow answer fails nothing, but a wrong one fails the benchmark.

`--benchmark-directory` chooses another disk. The options of pytest-benchmark work too: `--benchmark-json=FILE` writes the
timings of every round, with machine, date and commit.
"""
