"""The schema of the view: tables, and the triggers that make rows of a stored message in one step of SQLite.

A message is inserted into `incoming` as it is, and SQLite takes its JSON apart: the interpreter's lock is
free meanwhile, and no Python runs for a record. Owns what each message means to the ones before it and to
the bodies. Does not know when anything is called.

A message that has to go from the store has `expires_ms` 0: replaced, past its time, over the limit. Of a
subject's messages the last one may go only when the earlier ones are gone: it is what says that they do not
count any more, also to a view that is built anew.
"""

from __future__ import annotations

import hashlib

from stoker.records.formats import FORMAT

NEVER_MS = 2**63 - 1
"""`expires_ms` of what has no end yet."""
PLACES = 2**20
"""A record's place is its message's sequence times this, plus its index there: one number for both."""
ALONE = PLACES - 1
"""The index of a record that has a message of its own."""
PAYLOAD, RESULT, ANSWER = 1, 2, 4
"""Which body pieces a message `needs`, or a piece is one of."""
BIT_OF_BODY = {"payload": PAYLOAD, "result": RESULT, "answer": ANSWER}

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE moment (release_ms INTEGER NOT NULL) STRICT; -- when pieces go that nothing needs from now on
INSERT INTO moment VALUES (0);

CREATE TABLE accounts (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL DEFAULT 0 -- of its messages that need not go
) STRICT;

CREATE TABLE functions (
    number INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    subject TEXT NOT NULL,
    UNIQUE (account, subject)
) STRICT;

CREATE TABLE messages (
    sequence INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    noun TEXT NOT NULL,
    subject TEXT, -- what follows `accounts.<account>.invocation.`; NULL of a pack, as none replaces another
    invocation_id TEXT,
    expires_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    needs INTEGER NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,
    is_last INTEGER NOT NULL DEFAULT 1 -- of its subject
) STRICT;
CREATE INDEX messages_by_expiry ON messages (expires_ms);
CREATE INDEX messages_by_subject ON messages (account, subject) WHERE subject IS NOT NULL;
CREATE INDEX messages_by_invocation ON messages (account, invocation_id) WHERE invocation_id IS NOT NULL;
CREATE INDEX messages_pending ON messages (sequence) WHERE pending = 1;

CREATE TABLE records (
    place INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    invocation_id TEXT NOT NULL,
    function INTEGER NOT NULL,
    status TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    parent TEXT, -- the id of the invocation whose function called
    summary TEXT NOT NULL,
    UNIQUE (account, invocation_id)
) STRICT;
CREATE INDEX records_by_status ON records (account, status, invocation_id, expires_ms);
CREATE INDEX records_by_parent ON records (account, parent, invocation_id) WHERE parent IS NOT NULL;
CREATE INDEX records_by_function ON records (function, status, invocation_id, expires_ms);

CREATE VIEW incoming (sequence, account, noun, subject, invocation_id, bytes, needs, data) AS
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;
"""

_BYTES = """
CREATE TRIGGER bytes_more AFTER INSERT ON messages WHEN NEW.expires_ms <> 0 BEGIN
    UPDATE accounts SET bytes = bytes + NEW.bytes WHERE number = NEW.account;
END;
CREATE TRIGGER bytes_less AFTER DELETE ON messages WHEN OLD.expires_ms <> 0 BEGIN
    UPDATE accounts SET bytes = bytes - OLD.bytes WHERE number = OLD.account;
END;
CREATE TRIGGER bytes_other AFTER UPDATE OF expires_ms ON messages
WHEN (OLD.expires_ms = 0) <> (NEW.expires_ms = 0) BEGIN
    UPDATE accounts SET bytes = bytes + CASE NEW.expires_ms WHEN 0 THEN -NEW.bytes ELSE NEW.bytes END
    WHERE number = NEW.account;
END;
"""

_NEEDED = """EXISTS (
        SELECT 1 FROM messages AS o
        WHERE o.account = {0}.account AND o.invocation_id = {0}.invocation_id
        AND o.noun <> 'body' AND o.expires_ms <> 0 AND o.needs & {0}.needs <> 0
    )"""

# A piece comes before the message that needs it, and a dead letter after the end of its call, in the same
# write; a view that is fed in portions may see the one without the other, hence the moment of release.
_BODIES = f"""
CREATE TRIGGER bodies_taken AFTER INSERT ON messages WHEN NEW.needs <> 0 AND NEW.noun <> 'body' BEGIN
    UPDATE messages SET expires_ms = {NEVER_MS}
    WHERE account = NEW.account AND invocation_id = NEW.invocation_id
    AND noun = 'body' AND is_last = 1 AND needs & NEW.needs <> 0;
END;
CREATE TRIGGER bodies_released AFTER UPDATE OF expires_ms ON messages
WHEN NEW.expires_ms = 0 AND OLD.expires_ms <> 0 AND OLD.needs <> 0 AND OLD.noun <> 'body' BEGIN
    UPDATE messages SET expires_ms = (SELECT release_ms FROM moment)
    WHERE account = OLD.account AND invocation_id = OLD.invocation_id
    AND noun = 'body' AND expires_ms = {NEVER_MS} AND NOT {_NEEDED.format("messages")};
END;
CREATE TRIGGER bodies_bereft AFTER DELETE ON messages
WHEN OLD.expires_ms <> 0 AND OLD.needs <> 0 AND OLD.noun <> 'body' BEGIN
    UPDATE messages SET expires_ms = (SELECT release_ms FROM moment)
    WHERE account = OLD.account AND invocation_id = OLD.invocation_id
    AND noun = 'body' AND expires_ms = {NEVER_MS} AND NOT {_NEEDED.format("messages")};
END;
"""

_TEXT = "NEW.data"
_KNOWN = f"""SELECT RAISE(ABORT, 'another format')
    WHERE json_extract({_TEXT}, '$.format') IS NOT {FORMAT};"""
_REPLACE = """UPDATE messages SET is_last = 0, expires_ms = 0
    WHERE account = NEW.account AND subject = NEW.subject AND is_last = 1 AND sequence <> NEW.sequence;"""
_PART = "json_extract({0}, '$.{1}')".format
_FUNCTION = f"""(
        SELECT number FROM functions WHERE account = NEW.account AND subject = {_PART("r.value", "function")}
    )"""
_RECORD = f"""
        NEW.account, {_PART("r.value", "invocation_id")}, {_FUNCTION}, {_PART("r.value", "status")},
        m.expires_ms, {_PART("r.value", "parent_invocation_id")},
        json_remove(r.value, '$.payload', '$.result', '$.log')"""
_INTO_MESSAGES = """INSERT INTO messages
        (sequence, account, noun, subject, invocation_id, expires_ms, bytes, needs, pending)
    SELECT NEW.sequence, NEW.account, NEW.noun, NEW.subject,"""
_INTO_RECORDS = """INSERT OR REPLACE INTO records
        (place, account, invocation_id, function, status, expires_ms, parent, summary)"""

_MESSAGES = f"""
CREATE TRIGGER pack_comes INSTEAD OF INSERT ON incoming WHEN NEW.noun = 'pack' BEGIN
    {_INTO_MESSAGES} NULL, {_PART(_TEXT, "expires_ms")}, NEW.bytes, 0, 0
    WHERE {_PART(_TEXT, "format")} IS {FORMAT};
    SELECT RAISE(ABORT, 'another format')
    WHERE NOT EXISTS (SELECT 1 FROM messages WHERE sequence = NEW.sequence);
    INSERT OR IGNORE INTO functions (account, subject)
    SELECT DISTINCT NEW.account, {_PART("r.value", "function")} FROM json_each({_TEXT}, '$.records') AS r;
    {_INTO_RECORDS}
    SELECT NEW.sequence * {PLACES} + r.key, {_RECORD}
    FROM messages AS m CROSS JOIN json_each({_TEXT}, '$.records') AS r WHERE m.sequence = NEW.sequence;
END;

CREATE TRIGGER call_comes INSTEAD OF INSERT ON incoming WHEN NEW.noun = 'call' BEGIN
    {_KNOWN}
    SELECT RAISE(ABORT, 'the id of another')
    WHERE {_PART(_TEXT, "record.invocation_id")} IS NOT NEW.invocation_id;
    {_INTO_MESSAGES} NEW.invocation_id, coalesce({_PART(_TEXT, "expires_ms")}, {NEVER_MS}), NEW.bytes,
        CASE WHEN {_PART(_TEXT, "expires_ms")} IS NULL THEN {PAYLOAD | RESULT} ELSE
            CASE WHEN {_PART(_TEXT, "payload_pieces")} > 0 THEN {PAYLOAD} ELSE 0 END
            | CASE WHEN {_PART(_TEXT, "result_pieces")} > 0 THEN {RESULT} ELSE 0 END
        END,
        {_PART(_TEXT, "expires_ms")} IS NULL;
    {_REPLACE}
    INSERT OR IGNORE INTO functions (account, subject)
    VALUES (NEW.account, {_PART(_TEXT, "record.function")});
    {_INTO_RECORDS}
    SELECT NEW.sequence * {PLACES} + {ALONE}, {_RECORD}
    FROM messages AS m CROSS JOIN (SELECT {_PART(_TEXT, "record")} AS value) AS r
    WHERE m.sequence = NEW.sequence;
END;

CREATE TRIGGER dead_comes INSTEAD OF INSERT ON incoming WHEN NEW.noun = 'dead' BEGIN
    {_KNOWN}
    {_INTO_MESSAGES} NEW.invocation_id,
        CASE WHEN {_PART(_TEXT, "gone")} THEN 0 ELSE {_PART(_TEXT, "expires_ms")} END, NEW.bytes,
        CASE WHEN {_PART(_TEXT, "gone")} THEN 0
            WHEN {_PART(_TEXT, "payload_pieces")} > 0 THEN {PAYLOAD} ELSE 0 END, 0;
    {_REPLACE}
END;

CREATE TRIGGER key_comes INSTEAD OF INSERT ON incoming WHEN NEW.noun = 'key' BEGIN
    {_KNOWN}
    {_INTO_MESSAGES} {_PART(_TEXT, "invocation_id")},
        CASE WHEN {_PART(_TEXT, "gone")} THEN 0 ELSE {_PART(_TEXT, "expires_ms")} END, NEW.bytes,
        CASE WHEN {_PART(_TEXT, "gone")} THEN 0
            WHEN {_PART(_TEXT, "ended")} AND NOT coalesce({_PART(_TEXT, "result_pieces")}, 0) > 0 THEN 0
            ELSE {ANSWER} END, 0;
    {_REPLACE}
END;

CREATE TRIGGER body_comes INSTEAD OF INSERT ON incoming WHEN NEW.noun = 'body' BEGIN
    {_INTO_MESSAGES} NEW.invocation_id,
        CASE WHEN {_NEEDED.format("NEW")} THEN {NEVER_MS} ELSE (SELECT release_ms FROM moment) END,
        NEW.bytes, NEW.needs, 0;
    {_REPLACE}
END;
"""

SCHEMA = _TABLES + _BYTES + _BODIES + _MESSAGES
DIGEST = hashlib.sha256(SCHEMA.encode()).hexdigest()
"""A file that was made by another schema is made anew."""
