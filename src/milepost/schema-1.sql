-- The file format of milepost, version 1. This file is the only place that creates anything.
--
-- One file holds one chain of checkpoints, in the order in which they were committed. Nothing is ever updated or
-- deleted in `entry`; the triggers below stop an accident, the chain of signatures shows a deed.
--
-- signature of the empty chain:    32 zero bytes
-- signature after an entry:        SHA-256(signature before || canonical bytes of the entry),
--                                  in a keyed chain HMAC-SHA-256(key, signature before || canonical bytes of the entry)
-- canonical bytes of an entry:     UTF-8 of the JSON array ["run","stage",sequence,[offset,event_time_ms],"key",at_ms],
--                                  no white space, strings as RFC 8785 section 3.2.2.2 writes them
--
-- The journal mode is WAL, and a page has 2,048 bytes. Both are set when the file is made (create.py), before its tables.

PRAGMA application_id = 1296651344;  -- 0x4D495450, "MITP": what `file` and milepost know the file by
PRAGMA user_version = 1;             -- the version of this format

-- Whether the chain is keyed: a row if it is, none if not. The key itself is nowhere in the file.
CREATE TABLE keyed (
    key_check BLOB NOT NULL  -- 32 bytes: HMAC-SHA-256(key, "milepost: key check"), to tell a wrong key before it is used
) STRICT;

-- Names are stored once and referred to by number.
CREATE TABLE run (
    run_number INTEGER PRIMARY KEY,  -- 1, 2, 3 … in order of first appearance
    run_id     TEXT NOT NULL UNIQUE  -- one execution of a pipeline; 1 to 1,024 bytes of UTF-8, no NUL
) STRICT;

CREATE TABLE stage (
    stage_number INTEGER PRIMARY KEY,  -- 1, 2, 3 … in order of first appearance
    stage        TEXT NOT NULL UNIQUE  -- one step of a pipeline; 1 to 1,024 bytes of UTF-8, no NUL
) STRICT;

-- Which stages each run has: a row is added with the first checkpoint of a stage in a run.
CREATE TABLE lane (
    run_number   INTEGER NOT NULL,  -- run.run_number
    stage_number INTEGER NOT NULL,  -- stage.stage_number
    PRIMARY KEY (run_number, stage_number)
) STRICT, WITHOUT ROWID;

-- The chain: one row a checkpoint.
CREATE TABLE entry (
    position        INTEGER PRIMARY KEY,  -- place in the chain: 1, 2, 3 … without gaps
    run_number      INTEGER NOT NULL,     -- run.run_number
    stage_number    INTEGER NOT NULL,     -- stage.stage_number
    sequence        INTEGER NOT NULL,     -- rises within (run, stage), gaps allowed; 0 … 2^63-1
    offset          INTEGER NOT NULL,     -- watermark: position in the source; never falls within (run, stage)
    event_time_ms   INTEGER NOT NULL,     -- watermark: ms since the Unix epoch, UTC; never falls within (run, stage)
    idempotency_key TEXT    NOT NULL,     -- names the step; once within (run, stage); 1 to 1,024 bytes of UTF-8, no NUL
    at_ms           INTEGER NOT NULL,     -- wall clock when it was stated: ms since the Unix epoch, UTC; evidence, no order
    signature       BLOB    NOT NULL,     -- 32 bytes: the chain up to and including this row
    run_signature   BLOB,                 -- 32 bytes: the chain over the run's own entries so far; NULL while it is the same
    milepost        INTEGER               -- how many entries the stage has in the run so far, or NULL: see below
) STRICT;

CREATE UNIQUE INDEX entry_by_key ON entry (idempotency_key, run_number, stage_number);  -- find; no step twice

-- The first entry of a stage in a run is a milepost, and then each that stands 40 positions or more behind the last milepost
-- of that (run, stage). Only these are indexed by run, stage and sequence, since each index that a row is in costs an append
-- another page. Every entry stands less than 40 positions behind a milepost of its run and stage, and is found from there.
-- An index ends in the rowid, which is the position: each of these gives its rows in chain order.
CREATE        INDEX entry_by_run      ON entry (run_number)   WHERE milepost IS NOT NULL;  -- a run: history, latest
CREATE        INDEX entry_by_stage    ON entry (stage_number) WHERE milepost IS NOT NULL;  -- a stage: history, latest
CREATE UNIQUE INDEX entry_by_sequence ON entry (run_number, stage_number, sequence)        -- a stage of a run, and get
WHERE milepost IS NOT NULL;

-- Against accidents through a connection that shares the file (a tool, the sink's own SQL), not against intent.
CREATE TRIGGER entry_is_never_updated BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'milepost: a recorded checkpoint is never changed'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'milepost: a recorded checkpoint is never deleted'); END;

-- For people and other tools: the same rows, readable.
CREATE VIEW checkpoint AS
SELECT entry.position,
       run.run_id,
       stage.stage,
       entry.sequence,
       entry.offset,
       entry.event_time_ms,
       entry.idempotency_key,
       entry.at_ms,
       strftime('%Y-%m-%dT%H:%M:%fZ', entry.event_time_ms / 1000.0, 'unixepoch') AS event_time,
       strftime('%Y-%m-%dT%H:%M:%fZ', entry.at_ms / 1000.0, 'unixepoch') AS at,
       lower(hex(entry.signature)) AS signature
FROM entry
JOIN run USING (run_number)
JOIN stage USING (stage_number);
