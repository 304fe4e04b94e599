/* check_past.c: what snapshots show, and content piece by piece.
 *
 * Happy path: the positions that snapshots pin go into a temporary table, and so do all names, live
 * and old, of inodes that have a history. Rows without a history look the same in every snapshot
 * and need no second look; so the work is that of the history, not of snapshots times files. The
 * pieces of content are read in the order of inode and offset, live and old ones together, and only
 * those that reach over the current offset are kept in memory. History that no snapshot needs any
 * more may be there until a checkpoint sweeps it: it is judged by nobody. Failure modes and thread:
 * as check.c.
 */
#include <stdlib.h>

#include "fs/store/check.h"

#define THEN_SNAP                                                                                    \
    "What a snapshot shows is damaged, files as they are now need not be: delete that snapshot, or " \
    "go on with the standby or the archive."

#define SNAP_OF "(SELECT name FROM snapshot WHERE seq=p.seq LIMIT 1)"
#define FOREVER "9223372036854775807"

/* Rows `e` with ino, born and died whose inode a pinned position p does not have. Only positions
 * before the live row are looked at: from there on the live row is the answer. */
#define WITHOUT_INODE                                                     \
    " e LEFT JOIN inode i ON i.ino=e.ino CROSS JOIN pin p "               \
    "ON p.seq>=e.born AND p.seq<min(e.died, coalesce(i.seq," FOREVER "))" \
    " WHERE NOT EXISTS(SELECT 1 FROM inode_h h WHERE h.ino=e.ino AND h.seq<=p.seq AND h.died>p.seq)"

_Static_assert(DMT_SMALL_MAX == 65536, "the questions below name it");

const struct question g_check_past[] = {
    {"history",
     "SELECT 'history of inode ' || ino || ' ends before it begins' FROM inode_h WHERE seq>=died",
     THEN_SNAP, NULL},
    {"history",
     "SELECT 'history of entry \"' || CAST(name AS TEXT) || '\" ends before it begins' FROM dentry_h WHERE born>=died",
     THEN_SNAP, NULL},
    {"history",
     "SELECT 'history of attributes of inode ' || ino || ' ends before it begins' FROM xattr_h WHERE born>=died",
     THEN_SNAP, NULL},
    {"history",
     "SELECT 'history of content of inode ' || ino || ' ends before it begins' FROM extent_h "
     "WHERE born>=died OR len<=0 OR (data IS NOT NULL AND (length(data)<>len OR len>65536))",
     THEN_SNAP, NULL},
    {"snapshot",
     "SELECT 'snapshot ' || quote(name) || ' is of an epoch that is not known' FROM snapshot "
     "WHERE epoch NOT IN (SELECT epoch FROM epoch)",
     THEN_SNAP, NULL},
    {"snapshot",
     "SELECT 'snapshot ' || quote(name) || ' has no possible number or name' FROM snapshot "
     "WHERE serial<1 OR serial>=1<<23 OR seq<1 OR name='' OR length(CAST(name AS BLOB))>128",
     THEN_SNAP, NULL},
    {"snapshot-name",
     "SELECT 'snapshot ' || quote(" SNAP_OF
     ") || ': entry \"' || CAST(e.name AS TEXT) || '\" of directory ' || e.parent || ' names inode ' || "
     "e.ino || ', which did not exist then' FROM (SELECT parent,name,ino,born," FOREVER
     " AS died FROM dentry UNION ALL "
     "SELECT parent,name,ino,born,died FROM dentry_h)" WITHOUT_INODE,
     THEN_SNAP, NULL},
    {"snapshot-name",
     "SELECT DISTINCT 'snapshot ' || quote(" SNAP_OF
     ") || ': entries lie in directory ' || e.ino || ', which did not exist then' "
     "FROM (SELECT parent AS ino,born," FOREVER
     " AS died FROM dentry UNION ALL SELECT parent,born,died FROM dentry_h)" WITHOUT_INODE,
     THEN_SNAP, NULL},
    {"snapshot-content",
     "SELECT DISTINCT 'snapshot ' || quote(" SNAP_OF
     ") || ': content is of inode ' || e.ino || ', which did not exist then' "
     "FROM (SELECT ino,born,died FROM extent_h)" WITHOUT_INODE,
     THEN_SNAP, NULL},
    {"snapshot-content",
     "SELECT DISTINCT 'snapshot ' || quote(" SNAP_OF
     ") || ': attributes are of inode ' || e.ino || ', which did not exist then' "
     "FROM (SELECT ino,born,died FROM xattr_h)" WITHOUT_INODE,
     THEN_SNAP, NULL},
    {"snapshot-links",
     "SELECT 'snapshot ' || quote(" SNAP_OF
     ") || ': inode ' || h.ino || ' says ' || h.nlink || ' names and has ' || "
     "(SELECT count(*) FROM nm WHERE nm.ino=h.ino AND nm.born<=p.seq AND nm.died>p.seq) FROM inode_h h CROSS JOIN pin p "
     "ON p.seq>=h.seq AND p.seq<h.died WHERE h.mode>>12<>4 AND h.nlink<>"
     "(SELECT count(*) FROM nm WHERE nm.ino=h.ino AND nm.born<=p.seq AND nm.died>p.seq)",
     THEN_SNAP, NULL},
    {"snapshot-links",
     "SELECT 'snapshot ' || quote(" SNAP_OF
     ") || ': directory ' || h.ino || ' is not once in ' || h.parent FROM inode_h h "
     "CROSS JOIN pin p ON p.seq>=h.seq AND p.seq<h.died WHERE h.mode>>12=4 AND h.ino<>1 AND h.nlink>0 AND 1<>"
     "(SELECT count(*) FROM nm WHERE nm.ino=h.ino AND nm.parent=h.parent AND nm.born<=p.seq AND nm.died>p.seq)",
     THEN_SNAP, NULL},
    {"snapshot-tree",
     "SELECT 'snapshot ' || quote(" SNAP_OF
     ") || ': directory ' || h.ino || ' cannot be reached from the root' FROM inode_h h "
     "CROSS JOIN pin p ON p.seq>=h.seq AND p.seq<h.died WHERE h.mode>>12=4 AND h.ino<>1 AND h.nlink>0 AND NOT EXISTS("
     "WITH RECURSIVE up(ino) AS (SELECT h.parent UNION SELECT coalesce((SELECT x.parent FROM inode_h x WHERE x.ino=up.ino "
     "AND x.seq<=p.seq AND x.died>p.seq), (SELECT y.parent FROM inode y WHERE y.ino=up.ino AND y.seq<=p.seq)) FROM up "
     "WHERE up.ino<>1 AND up.ino IS NOT NULL) SELECT 1 FROM up WHERE ino=1)",
     THEN_SNAP, NULL},
    {NULL, NULL, NULL, NULL},
};

int check_past_begin(struct check *c)
{
    static const char text[] =
        "CREATE TEMP TABLE pin(seq INTEGER PRIMARY KEY);"
        "INSERT OR IGNORE INTO pin SELECT seq FROM snapshot;"
        "CREATE TEMP TABLE nm(ino INTEGER, parent INTEGER, born INTEGER, died INTEGER);"
        "INSERT INTO nm SELECT ino,parent,born," FOREVER
        " FROM dentry WHERE ino IN (SELECT ino FROM inode_h);"
        "INSERT INTO nm SELECT ino,parent,born,died FROM dentry_h WHERE ino IN (SELECT ino FROM inode_h);"
        "CREATE INDEX temp.nm_ino ON nm(ino);";
    return sqlite3_exec(c->db.h, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : -1;
}

/* --- ranges: what a position shows of one file does not overlap */

struct span {
    uint64_t off, end, born, died;
};
struct spans {
    struct span *v;
    size_t n, cap;
};

/* Does a snapshot show both? 1, 0, < 0. */
static int seen_together(struct check *c, sqlite3_stmt *pin, const struct span *a,
                         const struct span *b)
{
    sqlite3_bind_int64(pin, 1, (sqlite3_int64)(a->born > b->born ? a->born : b->born));
    sqlite3_bind_int64(pin, 2, (sqlite3_int64)(a->died < b->died ? a->died : b->died));
    int rc = sqlite3_step(pin);
    sqlite3_reset(pin);
    (void)c;
    return rc == SQLITE_ROW;
}

static void add_span(struct check *c, sqlite3_stmt *pin, struct spans *open, uint64_t ino,
                     const struct span *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < open->n; i++)
        if (open->v[i].end > s->off)
            open->v[kept++] = open->v[i];
    open->n = kept;
    for (size_t i = 0; i < open->n; i++)
        if (seen_together(c, pin, &open->v[i], s)) {
            check_found(c, "snapshot-range", THEN_SNAP, false,
                        "ranges of inode %llu at %llu overlap in a snapshot",
                        (unsigned long long)ino, (unsigned long long)s->off);
            break;
        }
    if (open->n == open->cap) {
        open->cap = open->cap ? open->cap * 2 : 16;
        open->v = realloc(open->v, open->cap * sizeof(*open->v));
        DMT_ASSERT(open->v);
    }
    open->v[open->n++] = *s;
}

void check_overlaps(struct check *c)
{
    static const char text[] =
        "SELECT ino,off,off+len,born," FOREVER
        " FROM extent WHERE ino IN (SELECT ino FROM extent_h) UNION ALL "
        "SELECT ino,off,off+len,born,died FROM extent_h UNION ALL "
        "SELECT ino,0,length(data),born," FOREVER
        " FROM content WHERE map IS NULL AND ino IN (SELECT ino FROM extent_h) ORDER BY 1,2";
    sqlite3_stmt *s = NULL, *pin = NULL;
    struct spans open = {0};
    uint64_t ino = 0;
    int rc = sqlite3_prepare_v2(c->db.h, text, -1, &s, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(c->db.h, "SELECT 1 FROM pin WHERE seq>=?1 AND seq<?2", -1, &pin,
                                NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc != SQLITE_ROW)
            continue;
        if (store_col(s, 0) != ino)
            open.n = 0;
        ino = store_col(s, 0);
        struct span p = {.off = store_col(s, 1),
                         .end = store_col(s, 2),
                         .born = store_col(s, 3),
                         .died = store_col(s, 4)};
        add_span(c, pin, &open, ino, &p);
    }
    if (rc != SQLITE_DONE)
        check_found(c, "database", CHECK_THEN_COPY, false, "database: %s", sqlite3_errmsg(c->db.h));
    sqlite3_finalize(s);
    sqlite3_finalize(pin);
    free(open.v);
    check_kind_end(c);
}

/* --- small content: one row a file */

static void judge_small(struct check *c, sqlite3_stmt *s)
{
    uint64_t ino = store_col(s, 3), alloc = store_col(s, 4), size = store_col(s, 5), sum = 0;
    uint64_t len = (uint64_t)sqlite3_column_bytes(s, 0);
    struct pmap m;
    store_pmap_init(&m);
    bool good = len > 0 && len <= DMT_SMALL_MAX && sqlite3_column_bytes(s, 2) % 16 == 0 &&
                store_small_read(s, &m) == 0 && store_pmap_end(&m) == len;
    for (const struct piece *p = good ? store_pmap_first(&m) : NULL; p; p = store_pmap_next(p))
        sum += p->end - p->off;
    store_pmap_clear(&m);
    if (!good)
        check_found(c, "small", CHECK_THEN_COPY, false,
                    "the small content of inode %llu (%llu bytes) is damaged",
                    (unsigned long long)ino, (unsigned long long)len);
    else if (sqlite3_column_type(s, 4) == SQLITE_NULL)
        return; /* has no inode: said by a question */
    else if (len > size)
        check_found(c, "small", CHECK_THEN_COPY, false,
                    "inode %llu says %llu bytes and its small content has %llu",
                    (unsigned long long)ino, (unsigned long long)size, (unsigned long long)len);
    else if (sum != alloc)
        check_found(c, "small", CHECK_THEN_COPY, false,
                    "inode %llu says %llu allocated bytes and its small content has %llu",
                    (unsigned long long)ino, (unsigned long long)alloc, (unsigned long long)sum);
}

void check_small(struct check *c)
{
    static const char text[] = "SELECT c.data,c.born,c.map,c.ino,i.alloc,i.size FROM content c "
                               "LEFT JOIN inode i ON i.ino=c.ino ORDER BY c.ino";
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(c->db.h, text, -1, &s, NULL);
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW)
            judge_small(c, s);
    }
    if (rc != SQLITE_DONE)
        check_found(c, "database", CHECK_THEN_COPY, false, "database: %s", sqlite3_errmsg(c->db.h));
    sqlite3_finalize(s);
    check_kind_end(c);
}
