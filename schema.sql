-- The file format of milepost, version 2. This file is the only place that creates anything.
--
-- One file holds one chain of checkpoints, in the order in which they were committed. Nothing is ever updated in `entry`,
-- and nothing is deleted but what was archived. The triggers below stop an accident; the chain of signatures shows a deed.
--
-- signature of the empty chain:    32 zero bytes
-- signature after an entry:        SHA-256(signature before || canonical bytes of the entry),
--                                  in a keyed chain HMAC-SHA-256(key, signature before || canonical bytes of the entry)
-- canonical bytes of an entry:     UTF-8 of the JSON array ["run","stage",sequence,[offset,event_time_ms],"key",at_ms],
--                                  or ["run","stage",sequence,[offset,event_time_ms],"key",at_ms,"detail"] if it has a
--                                  detail; no white space, strings as RFC 8785 section 3.2.2.2 writes them
--
-- The journal mode is WAL, a page has 2,048 bytes, and auto_vacuum is INCREMENTAL (NONE in a file that was made by version 1 and
-- upgraded). All three are set when the file is made (create.py), before its tables.

PRAGMA application_id = 1296651344;  -- 0x4D495450, "MITP": what `file` and milepost know the file by
PRAGMA user_version = 2;             -- the version of this format

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
CREATE TABLE run_stage (
    run_number   INTEGER NOT NULL,  -- run.run_number
    stage_number INTEGER NOT NULL,  -- stage.stage_number
    PRIMARY KEY (run_number, stage_number)
) STRICT, WITHOUT ROWID;

-- The chain: one row an entry, which is a checkpoint that was recorded.
CREATE TABLE entry (
    position        INTEGER PRIMARY KEY,  -- place in the chain: 1, 2, 3 … without gaps above chain_base.position
    run_number      INTEGER NOT NULL,     -- run.run_number
    stage_number    INTEGER NOT NULL,     -- stage.stage_number
    sequence        INTEGER NOT NULL,     -- rises within (run, stage), gaps allowed; 0 … 2^63-1
    offset          INTEGER NOT NULL,     -- watermark: position in the source; never falls within (run, stage)
    event_time_ms   INTEGER NOT NULL,     -- watermark: ms since the Unix epoch, UTC; never falls within (run, stage)
    idempotency_key TEXT    NOT NULL,     -- names the step; once within (run, stage); 1 to 1,024 bytes of UTF-8, no NUL
    at_ms           INTEGER NOT NULL,     -- wall clock when it was stated: ms since the Unix epoch, UTC; evidence, no order
    signature       BLOB    NOT NULL,     -- 32 bytes: the chain up to and including this row
    run_signature   BLOB,                 -- 32 bytes: the chain over the run's own entries so far; NULL while it is the same
    entries_so_far  INTEGER,              -- in a milepost (see below): how many entries the stage has in the run; else NULL
    detail          TEXT                  -- signed with it (a cursor's SHA-256 …): JSON of at most 4,096 bytes; NULL as a rule
) STRICT;

CREATE UNIQUE INDEX entry_by_key ON entry (idempotency_key, run_number, stage_number);  -- find; no step twice

-- A sparse index. The first entry of a stage in a run is a milepost, and then each that stands 40 positions or more behind the
-- last milepost of that (run, stage). Only these are indexed by run, stage and sequence, since each index that a row is in
-- costs an append another page. Every entry stands less than 40 positions behind a milepost of its run and stage, and is found
-- from there. An index ends in the rowid, which is the position: each of these gives its rows in chain order.
CREATE        INDEX entry_by_run      ON entry (run_number)   WHERE entries_so_far IS NOT NULL;  -- a run: history, latest
CREATE        INDEX entry_by_stage    ON entry (stage_number) WHERE entries_so_far IS NOT NULL;  -- a stage: history, latest
CREATE UNIQUE INDEX entry_by_sequence ON entry (run_number, stage_number, sequence)              -- a stage of a run, and get
WHERE entries_so_far IS NOT NULL;

-- Where a source goes on behind a checkpoint (a page token, a log position). Of each stage of each run, the last two are kept.
-- The detail of the entry has the cursor's SHA-256, so that a changed cursor shows.
CREATE TABLE stage_cursor (
    run_number   INTEGER NOT NULL,  -- run.run_number
    stage_number INTEGER NOT NULL,  -- stage.stage_number
    position     INTEGER NOT NULL,  -- entry.position: the checkpoint that it belongs to
    cursor       ANY     NOT NULL,  -- JSON as a text, bytes as a blob; at most 65,536 bytes
    PRIMARY KEY (run_number, stage_number, position)
) STRICT, WITHOUT ROWID;

-- Where the chain in this file begins: a row if entries were archived, none if it begins at its first entry.
CREATE TABLE chain_base (
    position  INTEGER PRIMARY KEY,  -- the last entry that was archived: those up to it are in another file
    signature BLOB NOT NULL         -- 32 bytes: the chain up to and including that entry
) STRICT;

-- Against accidents through a connection that shares the file (a tool, the sink's own SQL), not against intent.
CREATE TRIGGER entry_is_never_updated BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'milepost: a recorded checkpoint is never changed'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
WHEN old.position > (SELECT ifnull(max(position), 0) FROM chain_base)
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
       lower(hex(entry.signature)) AS signature,
       entry.detail
FROM entry
JOIN run USING (run_number)
JOIN stage USING (stage_number);
