"""
How fast milepost is, beside the least that SQLite can be made to do.

    pytest benchmarks                        the full dose, stores of up to 1,000,000 checkpoints: about 5 minutes
    pytest benchmarks -q --quick             a small dose, up to 100,000: under a minute
    pytest benchmarks -m long                lookups and opening at 10,000,000: needs 5 GB of disk, about 5 minutes
    python -m benchmarks.growth              curves over the size of the store, as a table and a picture
    python -m benchmarks.forensics           what it costs to look into a large file

Each `bench_<word>.py` asks one question. It measures milepost and the floor (`floor.py`) in turns, in one process and on
one disk, and the table at the end has the ratios. A slow answer fails nothing; a wrong one fails the benchmark.

`--benchmark-directory` names another disk to measure on; pytest-benchmark's own options work as always, for instance
`--benchmark-json=FILE` for the timings of every round, with machine, date and commit.
"""
