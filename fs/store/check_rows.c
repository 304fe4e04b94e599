/* check_rows.c: what must be true of the rows that show the workspace as it is now, as questions in
 * SQL.
 *
 * Owns nothing. Each question answers with one sentence per row that breaks it. A repair stands
 * beside it where the other rows say beyond doubt what is right, and where what is repaired cannot
 * be the trace of a lost row: counts are raised to what is there, never lowered, because a count
 * that says more than there is may be right. Questions about all rows are joins and groups that
 * sort into temporary files: their memory does not grow with the workspace. Failure modes and
 * thread: as check.c.
 */
#include "fs/store/check.h"

#define ALL_PIECES                                                                 \
    "(SELECT ino,owner,serial,foff,len,flags,'extent' AS t FROM extent UNION ALL " \
    "SELECT ino,owner,serial,foff,len,flags,'extent_h' FROM extent_h WHERE data IS NULL)"

#define NAMES                  "(SELECT ino, count(*) AS n FROM dentry GROUP BY ino)"
#define ROW_AT(table, ino, at) " UNION ALL SELECT '" table "'," ino "," at " FROM " table

/* How many directories a directory has. */
#define SUBDIRS "(SELECT parent, count(*) AS n FROM dentry WHERE type=16384 GROUP BY parent)"

/* A whole data file that table garbage names, and a range of one. */
#define USED_FILE                                                                \
    "(EXISTS(SELECT 1 FROM datafile f WHERE f.ino=g.ino AND f.serial=g.serial) " \
    "OR EXISTS(SELECT 1 FROM extent e WHERE e.ino=g.ino AND e.owner=g.ino AND e.serial=g.serial))"
#define IN_RANGE \
    "e.owner=g.ino AND e.serial=g.serial AND e.foff<g.foff+g.len AND g.foff<e.foff+e.len"
#define USED_RANGE                                                                                \
    "(EXISTS(SELECT 1 FROM extent e WHERE e.ino=g.ino AND " IN_RANGE                              \
    ") OR EXISTS(SELECT 1 FROM extent e WHERE e.flags & 1 AND " IN_RANGE                          \
    ") OR EXISTS(SELECT 1 FROM extent_h e WHERE e.ino=g.ino AND e.data IS NULL AND " IN_RANGE ")" \
    " OR EXISTS(SELECT 1 FROM extent_h e WHERE e.flags & 1 AND e.data IS NULL AND " IN_RANGE "))"
#define GARBAGE_IN_USE \
    "FROM garbage g WHERE (g.len=0 AND " USED_FILE ") OR (g.len<>0 AND " USED_RANGE ")"

/* Marks of data files that nothing can name any more (file_dead in gc.c). */
#define FILE_UNUSED                                                                                                          \
    "FROM datafile AS f WHERE (NOT EXISTS(SELECT 1 FROM inode i WHERE i.ino=f.ino) OR (f.serial>0 "                          \
    "AND f.serial<(SELECT max(x.serial) FROM datafile x WHERE x.ino=f.ino))) "                                               \
    "AND NOT EXISTS(SELECT 1 FROM extent e WHERE e.ino=f.ino AND e.owner=f.ino AND e.serial=f.serial) "                      \
    "AND NOT EXISTS(SELECT 1 FROM extent_h e WHERE e.ino=f.ino AND e.owner=f.ino AND e.serial=f.serial AND e.data IS NULL) " \
    "AND NOT EXISTS(SELECT 1 FROM extent e WHERE e.flags & 1 AND e.owner=f.ino AND e.serial=f.serial) "                      \
    "AND NOT EXISTS(SELECT 1 FROM extent_h e WHERE e.flags & 1 AND e.owner=f.ino AND e.serial=f.serial)"

#define COUNTER(key, what, sum)                                                                                 \
    {"counter",                                                                                                 \
     "SELECT '" what " is noted as ' || v || ' and is ' || n "                                                  \
     "FROM (SELECT coalesce((SELECT val FROM meta WHERE key='" key "'),0) AS v, (" sum                          \
     ") AS n) WHERE v<n",                                                                                       \
     "--repair notes what is there.",                                                                           \
     "INSERT INTO meta SELECT '" key "', (" sum                                                                 \
     ") WHERE true ON CONFLICT(key) DO UPDATE SET val=excluded.val"},                                           \
    {                                                                                                           \
        "counter-high",                                                                                         \
            "SELECT '" what                                                                                     \
            " is noted as ' || v || ' and is ' || n || ': rows may be lost' FROM (SELECT coalesce((SELECT val " \
            "FROM meta WHERE key='" key "'),0) AS v, (" sum ") AS n) WHERE v>n",                                \
            CHECK_THEN_COPY, NULL                                                                               \
    }

const struct question g_check_rows[] = {
    /* directories and names */
    {"root",
     "SELECT 'the root directory is missing' WHERE NOT EXISTS(SELECT 1 FROM inode WHERE ino=1 AND mode>>12=4)",
     CHECK_THEN_COPY, NULL},
    {"dangling",
     "SELECT 'entry \"' || CAST(d.name AS TEXT) || '\" of directory ' || d.parent || ' names inode ' || d.ino || ', which does not exist' "
     "FROM dentry d LEFT JOIN inode i ON i.ino=d.ino WHERE i.ino IS NULL",
     CHECK_THEN_COPY, NULL},
    {"type",
     "SELECT 'entry \"' || CAST(d.name AS TEXT) || '\" of directory ' || d.parent || ' has another type than its inode ' || d.ino "
     "FROM dentry d JOIN inode i ON i.ino=d.ino WHERE d.type<>i.mode & 0xf000",
     CHECK_THEN_COPY, NULL},
    {"parent",
     "SELECT 'entry \"' || CAST(d.name AS TEXT) || '\" lies in ' || d.parent || ', which is no directory' "
     "FROM dentry d LEFT JOIN inode i ON i.ino=d.parent WHERE i.ino IS NULL OR i.mode>>12<>4",
     CHECK_THEN_COPY, NULL},
    {"name",
     "SELECT 'entry ' || quote(name) || ' of directory ' || parent || ' has a name that cannot be' FROM dentry "
     "WHERE typeof(name)<>'blob' OR length(name)=0 OR length(name)>255 OR name IN (x'2e',x'2e2e') OR instr(name,x'2f') "
     "OR instr(name,x'00')",
     CHECK_THEN_COPY, NULL},
    {"cookie",
     "SELECT 'entry \"' || CAST(d.name AS TEXT) || '\" of directory ' || d.parent || ' has cookie ' || d.cookie || ', not below ' || "
     "i.next_cookie FROM dentry d JOIN inode i ON i.ino=d.parent WHERE d.cookie>=i.next_cookie",
     "--repair raises the directory's counter above its entries.",
     "UPDATE inode SET next_cookie=c.n FROM (SELECT parent, max(cookie)+1 AS n FROM (SELECT parent,cookie FROM dentry "
     "UNION ALL SELECT parent,cookie FROM dentry_h) GROUP BY parent) c "
     "WHERE c.parent=inode.ino AND inode.next_cookie<c.n"},
    {"cookie-low",
     "SELECT 'entry \"' || CAST(name AS TEXT) || '\" of directory ' || parent || ' has cookie ' || cookie || ', which is none' "
     "FROM dentry WHERE cookie<3",
     CHECK_THEN_COPY, NULL},
    {"links-high",
     "SELECT 'inode ' || i.ino || ' has ' || coalesce(c.n,0) || ' names and says ' || i.nlink || ': a name may be lost' "
     "FROM inode i LEFT JOIN " NAMES
     " c ON c.ino=i.ino WHERE i.mode>>12<>4 AND coalesce(c.n,0)<i.nlink",
     CHECK_THEN_COPY, NULL},
    {"links",
     "SELECT 'inode ' || i.ino || ' has ' || c.n || ' names and says ' || i.nlink FROM inode i "
     "JOIN " NAMES " c ON c.ino=i.ino WHERE i.mode>>12<>4 AND c.n>i.nlink",
     "--repair raises the link count to the number of names.",
     "UPDATE inode SET nlink=c.n FROM " NAMES
     " c WHERE c.ino=inode.ino AND inode.mode>>12<>4 AND c.n>inode.nlink"},
    {"orphan",
     "SELECT 'inode ' || ino || ' is marked as unlinked and has a name' FROM inode WHERE flags & 1 "
     "AND ino IN (SELECT ino FROM dentry)",
     "--repair takes the mark away.",
     "UPDATE inode SET flags=flags & ~1 WHERE flags & 1 AND ino IN (SELECT ino FROM dentry)"},
    {"nameless",
     "SELECT 'inode ' || ino || ' has no name and is no orphan' FROM inode WHERE nlink=0 AND NOT flags & 1 "
     "AND ino NOT IN (SELECT ino FROM dentry)",
     "--repair marks it as unlinked; the next holder removes it, as it does with every such file that nobody has open.",
     "UPDATE inode SET flags=flags | 1 "
     "WHERE nlink=0 AND NOT flags & 1 AND ino NOT IN (SELECT ino FROM dentry)"},
    {"dirnames",
     "SELECT 'directory ' || i.ino || ' has ' || coalesce(c.n,0) || ' names' FROM inode i LEFT JOIN " NAMES
     " c "
     "ON c.ino=i.ino WHERE i.mode>>12=4 AND ((i.ino<>1 AND i.nlink>0 AND coalesce(c.n,0)<>1) OR (i.ino=1 AND c.n>0))",
     CHECK_THEN_COPY, NULL},
    {"dirparent",
     "SELECT 'directory ' || d.ino || ' lies in ' || d.parent || ' and says ' || i.parent FROM dentry d "
     "JOIN inode i ON i.ino=d.ino WHERE i.mode>>12=4 AND i.parent<>d.parent",
     "--repair notes the directory that its entry is in.",
     "UPDATE inode SET parent=d.parent FROM dentry d WHERE d.ino=inode.ino AND d.type=16384 AND inode.mode>>12=4 "
     "AND inode.parent<>d.parent"},
    {"subdirs-high",
     "SELECT 'directory ' || i.ino || ' has ' || coalesce(c.n,0) || ' directories in it and says ' || (i.nlink-2) || "
     "': one may be lost' FROM inode i LEFT JOIN " SUBDIRS " c ON c.parent=i.ino "
     "WHERE i.mode>>12=4 AND i.nlink>2+coalesce(c.n,0)",
     CHECK_THEN_COPY, NULL},
    {"subdirs",
     "SELECT 'directory ' || i.ino || ' has ' || coalesce(c.n,0) || ' directories in it and says ' || (i.nlink-2) FROM inode i "
     "LEFT JOIN " SUBDIRS
     " c ON c.parent=i.ino WHERE i.mode>>12=4 AND NOT i.flags & 1 AND i.nlink<2+coalesce(c.n,0)",
     "--repair raises the count to the number of directories.",
     "UPDATE inode SET nlink=2+coalesce((SELECT count(*) FROM dentry d WHERE d.parent=inode.ino AND d.type=16384),0) "
     "WHERE mode>>12=4 AND NOT flags & 1 AND nlink<2+coalesce((SELECT count(*) FROM dentry d WHERE d.parent=inode.ino "
     "AND d.type=16384),0)"},
    {"unreachable",
     "WITH RECURSIVE reach(ino) AS (SELECT 1 UNION SELECT d.ino FROM reach r CROSS JOIN dentry d ON d.parent=r.ino "
     "AND d.type=16384) SELECT 'directory ' || ino || ' cannot be reached from the root' FROM inode "
     "WHERE mode>>12=4 AND nlink>0 AND ino NOT IN (SELECT ino FROM reach)",
     CHECK_THEN_COPY, NULL},
    /* inodes and attributes */
    {"inode",
     "SELECT 'inode ' || ino || ' has no possible type, size or flags' FROM inode WHERE (mode>>12) NOT IN (1,2,4,6,8,10,12) "
     "OR mode>>16 OR size<0 OR size>1<<44 OR flags & ~3 OR nlink<0 OR typeof(mode)<>'integer' OR typeof(size)<>'integer' "
     "OR typeof(nlink)<>'integer'",
     CHECK_THEN_COPY, NULL},
    {"symlink",
     "SELECT 'symbolic link ' || i.ino || ' has lost its target' FROM inode i LEFT JOIN content c ON c.ino=i.ino "
     "WHERE i.mode>>12=10 AND (c.ino IS NULL OR length(c.data)<>i.size)",
     CHECK_THEN_COPY, NULL},
    {"xattr",
     "SELECT DISTINCT 'attributes of inode ' || ino || ' have no inode' FROM xattr WHERE ino NOT IN (SELECT ino FROM inode)",
     CHECK_THEN_COPY, NULL},
    {"xattr",
     "SELECT 'attribute ' || quote(name) || ' of inode ' || ino || ' has a name or value that cannot be' FROM xattr "
     "WHERE typeof(name)<>'blob' OR length(name) NOT BETWEEN 1 AND 255 OR instr(name,x'00') OR length(value)>65536",
     CHECK_THEN_COPY, NULL},
    {"xattr-lost",
     "SELECT 'inode ' || ino || ' says that it has attributes and has none' FROM inode WHERE flags & 2 "
     "AND ino NOT IN (SELECT ino FROM xattr)",
     CHECK_THEN_COPY, NULL},
    {"xattr-mark",
     "SELECT 'inode ' || ino || ' has attributes and does not say so' FROM inode WHERE NOT flags & 2 "
     "AND ino IN (SELECT ino FROM xattr)",
     "--repair marks it.",
     "UPDATE inode SET flags=flags | 2 WHERE NOT flags & 2 AND ino IN (SELECT ino FROM xattr)"},
    /* content */
    {"content",
     "SELECT 'inode ' || ino || ' has content both in a row and in data files' FROM content WHERE ino IN (SELECT ino FROM extent)",
     CHECK_THEN_COPY, NULL},
    {"content",
     "SELECT DISTINCT 'content of inode ' || ino || ' has no inode' FROM (SELECT ino FROM content UNION ALL SELECT ino FROM extent) "
     "WHERE ino NOT IN (SELECT ino FROM inode)",
     CHECK_THEN_COPY, NULL},
    {"content",
     "SELECT DISTINCT 'inode ' || i.ino || ' is no file and has content' FROM inode i JOIN (SELECT ino FROM content "
     "UNION ALL SELECT ino FROM extent) c ON c.ino=i.ino WHERE i.mode>>12 NOT IN (8,10)",
     CHECK_THEN_COPY, NULL},
    {"range",
     "SELECT 'ranges of inode ' || ino || ' overlap at ' || off FROM (SELECT ino, off, lag(off+len) OVER (PARTITION BY ino "
     "ORDER BY off) AS before FROM extent) WHERE before>off",
     CHECK_THEN_COPY, NULL},
    {"range",
     "SELECT 'range of inode ' || ino || ' at ' || off || ' is empty' FROM extent WHERE len<=0 OR off<0 OR foff<0",
     CHECK_THEN_COPY, NULL},
    {"range",
     "SELECT 'range of inode ' || e.ino || ' at ' || e.off || ' lies behind the end of the file' FROM extent e "
     "JOIN inode i ON i.ino=e.ino WHERE e.off+e.len>i.size",
     CHECK_THEN_COPY, NULL},
    {"alloc-high",
     "SELECT 'inode ' || i.ino || ' says ' || i.alloc || ' allocated bytes and has ' || coalesce(e.n,0) || ': a range may be lost' "
     "FROM inode i LEFT JOIN (SELECT ino, sum(len) AS n FROM extent GROUP BY ino) e ON e.ino=i.ino "
     "WHERE i.alloc>coalesce(e.n,0) AND i.ino NOT IN (SELECT ino FROM content)",
     CHECK_THEN_COPY, NULL},
    {"alloc",
     "SELECT 'inode ' || e.ino || ' says ' || i.alloc || ' allocated bytes and has ' || e.n FROM "
     "(SELECT ino, sum(len) AS n FROM extent GROUP BY ino) e JOIN inode i ON e.ino=i.ino WHERE i.alloc<e.n",
     "--repair notes what is there.",
     "UPDATE inode SET alloc=e.n FROM (SELECT ino, sum(len) AS n FROM extent GROUP BY ino) e WHERE e.ino=inode.ino "
     "AND inode.alloc<e.n"},
    /* data files as rows see them */
    {"mark",
     "SELECT 'a range of inode ' || e.ino || ' lies behind the mark of data file ' || e.owner || '.' || e.serial FROM " ALL_PIECES
     " e LEFT JOIN datafile f ON f.ino=e.owner AND f.serial=e.serial WHERE f.hwm IS NULL OR e.foff+e.len>f.hwm",
     "--repair raises the mark, so that nothing is written over the range.",
     "INSERT INTO datafile SELECT owner, serial, max(foff+len) FROM " ALL_PIECES
     " GROUP BY owner, serial "
     "ON CONFLICT(ino,serial) DO UPDATE SET hwm=max(hwm,excluded.hwm)"},
    {"shared",
     "SELECT 'a range of inode ' || e.ino || ' is in a file of inode ' || e.owner || ' without the mark shared' FROM " ALL_PIECES
     " e WHERE e.ino<>e.owner AND NOT e.flags & 1",
     CHECK_THEN_COPY, NULL},
    {"unused",
     "SELECT 'data file ' || f.ino || '.' || f.serial || ' is noted and nothing refers to it' " FILE_UNUSED,
     "--repair forgets it and moves it to lost+found in the store.",
     "DELETE FROM datafile WHERE (ino,serial) IN (SELECT f.ino, f.serial " FILE_UNUSED ")"},
    {"garbage",
     "SELECT 'data file ' || g.ino || '.' || g.serial || ' is noted as garbage and in use' " GARBAGE_IN_USE,
     "--repair takes the note away; without it the next mount removes bytes that are in use.",
     "DELETE FROM garbage WHERE rowid IN (SELECT g.rowid " GARBAGE_IN_USE ")"},
    /* ranges that are not here yet */
    {"missing",
     "SELECT 'a missing range of inode ' || ino || ' is empty or before the beginning' FROM missing WHERE len<=0 OR off<0 OR foff<0",
     CHECK_THEN_COPY, NULL},
    {"missing",
     "SELECT 'a missing range of inode ' || m.ino || ' lies behind the mark of data file ' || m.owner || '.' || m.serial "
     "FROM missing m LEFT JOIN datafile f ON f.ino=m.owner AND f.serial=m.serial WHERE f.hwm IS NULL OR m.foff+m.len>f.hwm",
     CHECK_THEN_COPY, NULL},
    {"missing-gone",
     "SELECT DISTINCT 'a missing range is of inode ' || ino || ', which does not exist' FROM missing WHERE died=0 "
     "AND ino NOT IN (SELECT ino FROM inode)",
     "--repair drops the note: nobody can ask for those bytes.",
     "DELETE FROM missing WHERE died=0 AND ino NOT IN (SELECT ino FROM inode)"},
    {"keep",
     "SELECT 'the fallback of inode ' || ino || ' is of no inode' FROM keep WHERE ino NOT IN (SELECT ino FROM inode)",
     "--repair drops it: no file falls back to it.",
     "DELETE FROM keep WHERE ino NOT IN (SELECT ino FROM inode)"},
    /* the store as a whole; the sums come last: repairs before may change them */
    COUNTER(".inodes", "the number of inodes", "SELECT count(*) FROM inode"),
    COUNTER(".live_bytes", "the sum of allocated bytes",
            "SELECT coalesce(sum(max(i.alloc,coalesce(e.n,0))),0) FROM inode i LEFT JOIN "
            "(SELECT ino, sum(len) AS n FROM extent GROUP BY ino) e ON e.ino=i.ino"),
    COUNTER(".pinned_bytes", "the sum of pinned bytes",
            "SELECT coalesce(sum(len),0) FROM extent_h"),
    {"newer",
     "SELECT 'a row of table ' || t || ' (inode ' || ino || ') is of position ' || p || ', the database stands at ' || val FROM "
     "(SELECT 'inode' AS t, ino, seq AS p FROM inode" ROW_AT("dentry", "parent", "born")
         ROW_AT("xattr", "ino", "born") ROW_AT("content", "ino", "born")
             ROW_AT("extent", "ino", "born") ROW_AT("missing", "ino", "seq")
                 ROW_AT("inode_h", "ino", "died") ROW_AT("dentry_h", "parent", "died")
                     ROW_AT("xattr_h", "ino", "died") ROW_AT("extent_h", "ino", "died")
                         ROW_AT("keep", "ino", "view") ROW_AT("snapshot", "serial", "seq")
                             ROW_AT("epoch", "epoch",
                                    "switch_seq") ") JOIN meta ON key='.seq' WHERE p>val OR p<0",
     CHECK_THEN_COPY, NULL},
    {"epoch",
     "SELECT 'epoch ' || (e.epoch>>32) || '.' || (e.epoch & 4294967295) || ' does not follow from the epoch before it' FROM epoch e "
     "LEFT JOIN epoch p ON p.epoch=e.parent WHERE e.parent<>0 AND (p.epoch IS NULL OR e.parent>=e.epoch OR p.switch_seq>e.switch_seq)",
     CHECK_THEN_COPY, NULL},
    {"epoch",
     "SELECT 'the database stands in epoch ' || (m.val>>32) || '.' || (m.val & 4294967295) || ', of which it knows nothing' FROM meta m "
     "WHERE m.key='.epoch' AND m.val<>0 AND m.val<>(SELECT coalesce(max(epoch),0) FROM epoch)",
     CHECK_THEN_COPY, NULL},
    {NULL, NULL, NULL, NULL},
};
