-- The file format of milepost, version 2. This file is the only place that creates anything.
--
-- One file holds one chain of checkpoints, in the order of their commits. No row of `entry` is ever updated, and only archived
-- rows are deleted. The triggers below stop accidents, and the chain of signatures reveals tampering.
--
-- signature of the empty chain:    32 zero bytes
-- signature after an entry:        SHA-256(signature before || canonical bytes of the entry),
--                                  in a keyed chain HMAC-SHA-256(key, signature before || canonical bytes of the entry)
-- canonical bytes of an entry:     UTF-8 of the JSON array ["run","stage",sequence,[offset,event_time_ms],"key",at_ms],
--                                  or ["run","stage",sequence,[offset,event_time_ms],"key",at_ms,"detail"] if it has a
--                                  detail; no white space, strings as RFC 8785 section 3.2.2.2 writes them
--
-- The journal mode is WAL, and a page has 2,048 bytes. The auto_vacuum mode is INCREMENTAL, or NONE in a file upgraded from
-- version 1. All three are set when the file is made (create.py), before its tables.

PRAGMA application_id = 1296651344;  -- 0x4D495450, "MITP": identifies the file to `file` and to milepost
PRAGMA user_version = 2;             -- the version of this format

-- A keyed chain has one row here, and any other chain has none. The key itself is nowhere in the file.
CREATE TABLE keyed (
    key_check BLOB NOT NULL  -- 32 bytes: HMAC-SHA-256(key, "milepost: key check"), to detect a wrong key before use
) STRICT;

-- Each name is stored once. Other tables refer to it by number.
CREATE TABLE run (
    run_number INTEGER PRIMARY KEY,  -- 1, 2, 3 … in order of first appearance
    run_id     TEXT NOT NULL UNIQUE  -- one execution of a pipeline; 1 to 1,024 bytes of UTF-8, no NUL
) STRICT;

CREATE TABLE stage (
    stage_number INTEGER PRIMARY KEY,  -- 1, 2, 3 … in order of first appearance
    stage        TEXT NOT NULL UNIQUE  -- one step of a pipeline; 1 to 1,024 bytes of UTF-8, no NUL
) STRICT;

-- The stages of each run. The first checkpoint of a stage in a run adds a row.
CREATE TABLE run_stage (
    run_number   INTEGER NOT NULL,  -- run.run_number
    stage_number INTEGER NOT NULL,  -- stage.stage_number
    PRIMARY KEY (run_number, stage_number)
) STRICT, WITHOUT ROWID;

-- The chain. Each row is an entry, which is a recorded checkpoint.
CREATE TABLE entry (
    position        INTEGER PRIMARY KEY,  -- place in the chain: 1, 2, 3 … without gaps above chain_base.position
    run_number      INTEGER NOT NULL,     -- run.run_number
    stage_number    INTEGER NOT NULL,     -- stage.stage_number
    sequence        INTEGER NOT NULL,     -- rises within (run, stage), gaps allowed; 0 … 2^63-1
    offset          INTEGER NOT NULL,     -- watermark: position in the source; never falls within (run, stage)
    event_time_ms   INTEGER NOT NULL,     -- watermark: ms since the Unix epoch, UTC; never falls within (run, stage)
    idempotency_key TEXT    NOT NULL,     -- names the step; once within (run, stage); 1 to 1,024 bytes of UTF-8, no NUL
    at_ms           INTEGER NOT NULL,     -- wall clock of the checkpoint: ms since the Unix epoch, UTC; evidence, no order
    signature       BLOB    NOT NULL,     -- 32 bytes: the chain up to and including this row
    run_signature   BLOB,                 -- 32 bytes: the chain over the run's own entries so far; NULL while it is the same
    entries_so_far  INTEGER,              -- in a milepost (see below): how many entries the stage has in the run; or NULL
    detail          TEXT                  -- JSON of at most 4,096 bytes, signed too (a cursor's SHA-256 …); usually NULL
) STRICT;

CREATE UNIQUE INDEX entry_by_key ON entry (idempotency_key, run_number, stage_number);  -- find; no step twice

-- A sparse index. The first entry of a stage in a run is a milepost. The next one is the first entry of that stage and run that
-- stands 40 or more positions later. An archive makes the first entry that it leaves of a stage a milepost too. Only mileposts
-- are indexed by run, stage and sequence, because each index of a row costs an append another page. Every entry stands less than
-- 40 positions after a milepost of its run and stage, and is found from there. An index ends in the rowid, which is the
-- position, so each of these returns rows in chain order.
CREATE        INDEX entry_by_run      ON entry (run_number)   WHERE entries_so_far IS NOT NULL;  -- a run: history, latest
CREATE        INDEX entry_by_stage    ON entry (stage_number) WHERE entries_so_far IS NOT NULL;  -- a stage: history, latest
CREATE UNIQUE INDEX entry_by_sequence ON entry (run_number, stage_number, sequence)              -- a stage of a run, and get
WHERE entries_so_far IS NOT NULL;

-- Where a source goes on after a checkpoint (a page token, a log position). The last two of each stage of each run are kept.
-- The detail of the entry has the cursor's SHA-256, so a changed cursor shows.
CREATE TABLE stage_cursor (
    run_number   INTEGER NOT NULL,  -- run.run_number
    stage_number INTEGER NOT NULL,  -- stage.stage_number
    position     INTEGER NOT NULL,  -- entry.position: the checkpoint that it belongs to
    cursor       ANY     NOT NULL,  -- JSON as a text, bytes as a blob; at most 65,536 bytes
    PRIMARY KEY (run_number, stage_number, position)
) STRICT, WITHOUT ROWID;

-- Where the chain in this file begins. An archive leaves a row. Without one, the chain begins at its first entry. Of each stage
-- of each run the last archived entry stays in `entry`, and all with its watermark, and the whole of a bag in progress.
CREATE TABLE chain_base (
    position  INTEGER PRIMARY KEY,  -- the last archived entry; it and all entries before it are in another file
    signature BLOB NOT NULL         -- 32 bytes: the chain up to and including that entry
) STRICT;

-- These stop accidents of other programs and SQL that share the file (a tool, the sink's own SQL). They do not stop intent.
CREATE TRIGGER entry_is_never_updated BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'milepost: a recorded checkpoint is never changed'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
WHEN old.position > (SELECT ifnull(max(position), 0) FROM chain_base)
BEGIN SELECT RAISE(ABORT, 'milepost: a recorded checkpoint is never deleted'); END;

-- The same rows in readable form, for people and other tools.
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
