/* sql.h: every statement of the store, by name. Each connection prepares a statement at its first use and keeps it. The schema
 * itself is in db.c. Column lists are shared, so that a row is read the same way wherever it comes from. */
#ifndef DMT_STORE_SQL_H
#define DMT_STORE_SQL_H

#define SQL_INODE_COLS "mode,nlink,uid,gid,rdev,flags,size,atime,mtime,ctime,btime,parent,next_cookie,epoch,seq,alloc"
#define SQL_EXTENT_COLS "off,len,owner,serial,foff,flags,born"

#define STORE_SQL(X)                                                                                                     \
    X(BEGIN, "BEGIN")                                                                                                    \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                                                    \
    X(COMMIT, "COMMIT")                                                                                                  \
    X(ROLLBACK, "ROLLBACK")                                                                                              \
    X(META_ALL, "SELECT key, val FROM meta")                                                                             \
    X(META_GET, "SELECT val FROM meta WHERE key=?1")                                                                     \
    X(META_PUT, "INSERT INTO meta VALUES(?1,?2) ON CONFLICT(key) DO UPDATE SET val=excluded.val")                        \
    X(META_DEL, "DELETE FROM meta WHERE key=?1")                                                                         \
    /* inodes */                                                                                                         \
    X(INODE_GET, "SELECT " SQL_INODE_COLS ",ino FROM inode WHERE ino=?1")                                                \
    X(INODE_NEAR, "SELECT ino FROM inode WHERE ino>=?1 ORDER BY ino LIMIT 1")                                            \
    X(INODE_PUT, "INSERT OR REPLACE INTO inode(ino," SQL_INODE_COLS ") "                                                 \
                 "VALUES(?17,?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)")                                   \
    X(INODE_DEL, "DELETE FROM inode WHERE ino=?1")                                                                       \
    X(INODE_MAX, "SELECT max((SELECT coalesce(max(ino),0) FROM inode), (SELECT coalesce(max(ino),0) FROM inode_h), "     \
                 "(SELECT coalesce(max(ino),0) FROM extent_h), (SELECT coalesce(max(ino),0) FROM datafile), "            \
                 "(SELECT coalesce(max(ino),0) FROM garbage))")                                                          \
    X(ORPHAN_ALL, "SELECT ino FROM inode WHERE flags & 1 ORDER BY ino")                                                  \
    X(INODE_ALL, "SELECT " SQL_INODE_COLS ",ino FROM inode ORDER BY ino")                                                \
    X(INODE_H_AT, "SELECT " SQL_INODE_COLS ",ino,died FROM inode_h WHERE ino=?1 AND died>?2 ORDER BY died LIMIT 1")      \
    X(INODE_H_PUT, "INSERT OR REPLACE INTO inode_h(ino,died," SQL_INODE_COLS ") "                                        \
                   "VALUES(?17,?18,?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)")                             \
    X(INODE_H_ALL, "SELECT " SQL_INODE_COLS ",ino,died FROM inode_h ORDER BY ino,died")                                  \
    X(INODE_CHANGED, "SELECT ino FROM inode WHERE seq>?1 AND seq<=?2 UNION SELECT ino FROM inode_h "                     \
                     "WHERE (seq>?1 AND seq<=?2) OR (died>?1 AND died<=?2)")                                             \
    /* directory entries */                                                                                              \
    X(DENTRY_GET, "SELECT ino,cookie,type,born FROM dentry WHERE parent=?1 AND name=?2")                                 \
    X(DENTRY_PUT, "INSERT INTO dentry(parent,name,ino,cookie,type,born) VALUES(?1,?2,?3,?4,?5,?6)")                      \
    X(DENTRY_DEL, "DELETE FROM dentry WHERE parent=?1 AND name=?2")                                                      \
    X(DENTRY_DIR, "SELECT name,ino,cookie,type,born FROM dentry WHERE parent=?1 AND cookie>?2 ORDER BY cookie LIMIT ?3") \
    X(DENTRY_ALL, "SELECT name,ino,cookie,type,born,parent FROM dentry ORDER BY parent,name")                            \
    X(DENTRY_H_AT, "SELECT ino,cookie,type,born FROM dentry_h WHERE parent=?1 AND name=?2 AND died>?3 "                  \
                   "ORDER BY died LIMIT 1")                                                                              \
    X(DENTRY_H_PUT, "INSERT OR REPLACE INTO dentry_h(parent,name,died,ino,cookie,type,born) VALUES(?1,?2,?7,?3,?4,?5,?6)") \
    X(DENTRY_H_DIR, "SELECT name,ino,cookie,type,born FROM dentry_h WHERE parent=?1 AND cookie>?2 AND born<=?4 "         \
                    "AND died>?4 ORDER BY cookie LIMIT ?3")                                                              \
    X(DENTRY_H_ALL, "SELECT name,ino,cookie,type,born,parent,died FROM dentry_h ORDER BY parent,name,died")              \
    /* extended attributes */                                                                                            \
    X(XATTR_OF, "SELECT name,value,born FROM xattr WHERE ino=?1 ORDER BY name")                                          \
    X(XATTR_PUT, "INSERT OR REPLACE INTO xattr(ino,name,value,born) VALUES(?1,?2,?3,?4)")                                \
    X(XATTR_DEL, "DELETE FROM xattr WHERE ino=?1 AND name=?2")                                                           \
    X(XATTR_WIPE, "DELETE FROM xattr WHERE ino=?1")                                                                      \
    X(XATTR_ALL, "SELECT name,value,born,ino FROM xattr ORDER BY ino,name")                                              \
    X(XATTR_H_AT, "SELECT name,value,born FROM xattr_h WHERE ino=?1 AND born<=?2 AND died>?2")                           \
    X(XATTR_H_PUT, "INSERT OR REPLACE INTO xattr_h(ino,name,died,value,born) VALUES(?1,?2,?5,?3,?4)")                    \
    X(XATTR_H_ALL, "SELECT name,value,born,ino,died FROM xattr_h ORDER BY ino,name,died")                                \
    /* content */                                                                                                        \
    X(CONTENT_GET, "SELECT data,born,map FROM content WHERE ino=?1")                                                     \
    X(CONTENT_PUT, "INSERT OR REPLACE INTO content(ino,data,born,map) VALUES(?1,?2,?3,?4)")                              \
    X(CONTENT_DEL, "DELETE FROM content WHERE ino=?1")                                                                   \
    X(CONTENT_ALL, "SELECT data,born,map,ino FROM content ORDER BY ino")                                                 \
    X(EXTENT_OF, "SELECT " SQL_EXTENT_COLS " FROM extent WHERE ino=?1 ORDER BY off")                                     \
    X(EXTENT_FROM, "SELECT " SQL_EXTENT_COLS " FROM extent WHERE ino=?1 AND off>=?2 AND off<?3 ORDER BY off")            \
    X(EXTENT_BEFORE, "SELECT " SQL_EXTENT_COLS " FROM extent WHERE ino=?1 AND off<?2 ORDER BY off DESC LIMIT 1")         \
    X(EXTENT_ANY, "SELECT 1 FROM extent WHERE ino=?1 LIMIT 1")                                                           \
    X(EXTENT_PUT, "INSERT OR REPLACE INTO extent(ino," SQL_EXTENT_COLS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8)")              \
    X(EXTENT_DEL, "DELETE FROM extent WHERE ino=?1 AND off=?2")                                                          \
    X(EXTENT_ALL, "SELECT " SQL_EXTENT_COLS ",ino FROM extent ORDER BY ino,off")                                         \
    X(EXTENT_H_OF, "SELECT " SQL_EXTENT_COLS ",died,data FROM extent_h WHERE ino=?1 AND born<=?2 AND died>?2")           \
    X(EXTENT_H_PUT, "INSERT OR REPLACE INTO extent_h(ino," SQL_EXTENT_COLS ",died,data) "                                \
                    "VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)")                                                            \
    X(EXTENT_H_SHARE, "UPDATE extent_h SET flags=flags|1 WHERE ino=?1 AND born<=?2 AND died>?2 AND data IS NULL")        \
    X(EXTENT_H_INO, "SELECT " SQL_EXTENT_COLS ",died,data IS NOT NULL FROM extent_h WHERE ino=?1")                       \
    X(EXTENT_H_DEL, "DELETE FROM extent_h WHERE ino=?1 AND off=?2 AND died=?3")                                          \
    X(EXTENT_H_ALL, "SELECT " SQL_EXTENT_COLS ",died,data,ino FROM extent_h ORDER BY ino,off,died")                      \
    /* who refers to data file (owner ?1, serial ?2)? */                                                                 \
    X(FILE_USED, "SELECT EXISTS(SELECT 1 FROM extent WHERE ino=?1 AND owner=?1 AND serial=?2) "                          \
                 "OR EXISTS(SELECT 1 FROM extent_h WHERE ino=?1 AND owner=?1 AND serial=?2 AND data IS NULL) "           \
                 "OR EXISTS(SELECT 1 FROM extent WHERE flags & 1 AND owner=?1 AND serial=?2) "                           \
                 "OR EXISTS(SELECT 1 FROM extent_h WHERE flags & 1 AND owner=?1 AND serial=?2)")                         \
    X(FILE_PLACES, "SELECT foff,len FROM extent WHERE ino=?1 AND owner=?1 AND serial=?2 UNION ALL "                      \
                   "SELECT foff,len FROM extent_h WHERE ino=?1 AND owner=?1 AND serial=?2 AND data IS NULL UNION ALL "   \
                   "SELECT foff,len FROM extent WHERE flags & 1 AND owner=?1 AND serial=?2 AND ino<>?1 UNION ALL "       \
                   "SELECT foff,len FROM extent_h WHERE flags & 1 AND owner=?1 AND serial=?2 AND ino<>?1 "               \
                   "ORDER BY 1,2")                                                                                       \
    X(DATAFILE_OF, "SELECT serial,hwm FROM datafile WHERE ino=?1 ORDER BY serial")                                       \
    X(DATAFILE_GET, "SELECT hwm FROM datafile WHERE ino=?1 AND serial=?2")                                               \
    X(DATAFILE_PUT, "INSERT OR REPLACE INTO datafile(ino,serial,hwm) VALUES(?1,?2,?3)")                                  \
    X(DATAFILE_DEL, "DELETE FROM datafile WHERE ino=?1 AND serial=?2")                                                   \
    X(DATAFILE_ALL, "SELECT ino,serial,hwm FROM datafile ORDER BY ino,serial")                                           \
    X(GARBAGE_PUT, "INSERT INTO garbage(ino,serial,foff,len) VALUES(?1,?2,?3,?4)")                                       \
    X(GARBAGE_ALL, "SELECT rowid,ino,serial,foff,len FROM garbage ORDER BY ino,serial,foff")                             \
    X(GARBAGE_CLEAR, "DELETE FROM garbage")                                                                              \
    /* missing ranges, keeps, snapshots, epochs */                                                                       \
    X(MISSING_ALL, "SELECT ino,off,seq,len,owner,serial,foff,died,shared FROM missing ORDER BY ino,off,seq")                  \
    X(MISSING_PUT, "INSERT OR REPLACE INTO missing(ino,off,seq,len,owner,serial,foff,died,shared) "                     \
                   "VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9)")                                                                \
    X(MISSING_DEL, "DELETE FROM missing WHERE ino=?1 AND off=?2 AND seq=?3")                                             \
    X(MISSING_AT, "SELECT foff,len FROM missing WHERE ino=?1 AND owner=?1 AND serial=?2 UNION ALL "                      \
                  "SELECT foff,len FROM missing WHERE owner<>ino AND owner=?1 AND serial=?2 ORDER BY 1")                 \
    X(KEEP_ALL, "SELECT ino,src,view,size,mtime FROM keep ORDER BY ino,view,src")                                        \
    X(KEEP_PUT, "INSERT OR REPLACE INTO keep(ino,src,view,size,mtime) VALUES(?1,?2,?3,?4,?5)")                           \
    X(KEEP_DEL, "DELETE FROM keep WHERE ino=?1 AND src=?2 AND view=?3")                                                  \
    X(SNAP_MAX, "SELECT coalesce(max(serial),0) FROM snapshot")                                                          \
    X(SNAP_ALL, "SELECT serial,seq,epoch,time_ns,name,note FROM snapshot ORDER BY seq,serial")                           \
    X(SNAP_PUT, "INSERT OR REPLACE INTO snapshot(serial,seq,epoch,time_ns,name,note) VALUES(?1,?2,?3,?4,?5,?6)")         \
    X(SNAP_DEL, "DELETE FROM snapshot WHERE name=?1")                                                                    \
    X(EPOCH_ALL, "SELECT epoch,parent,switch_seq,switch_chain,time_ns,node,reason FROM epoch ORDER BY epoch")            \
    X(EPOCH_PUT, "INSERT OR REPLACE INTO epoch(epoch,parent,switch_seq,switch_chain,time_ns,node,reason) "               \
                 "VALUES(?1,?2,?3,?4,?5,?6,?7)")                                                                         \
    /* a difference: history by the position where it ends, what one inode has */                                        \
    X(INODE_H_DIED, "SELECT " SQL_INODE_COLS ",ino,died FROM inode_h WHERE died>?1 ORDER BY ino,died")                   \
    X(DENTRY_H_DIED, "SELECT name,ino,cookie,type,born,parent,died FROM dentry_h WHERE died>?1 "                         \
                     "ORDER BY parent,name,died")                                                                        \
    X(XATTR_H_DIED, "SELECT name,value,born,ino,died FROM xattr_h WHERE died>?1 ORDER BY ino,name,died")                 \
    X(EXTENT_H_DIED, "SELECT " SQL_EXTENT_COLS ",died,data,ino FROM extent_h WHERE died>?1 ORDER BY ino,off,died")       \
    X(DENTRY_ROWS, "SELECT name,ino,cookie,type,born,parent FROM dentry WHERE parent=?1 ORDER BY cookie")                \
    X(XATTR_ROWS, "SELECT name,value,born,ino FROM xattr WHERE ino=?1 ORDER BY name")                                    \
    X(INODE_VERSIONS, "SELECT ino,epoch,seq,alloc FROM inode ORDER BY ino")                                              \
    X(DENTRY_COUNT, "SELECT count(*) FROM dentry")                                                                       \
    X(MISSING_PLACES, "SELECT owner,serial,foff,len,died<>0 AND shared&2<>0 FROM missing ORDER BY 1,2,3,5")                 \
    X(MISSING_LIVE, "SELECT off,len,seq,owner,serial,foff,shared FROM missing WHERE ino=?1 AND died=0 AND off<?3 "       \
                    "AND off+len>?2 ORDER BY off")                                                                       \
    X(EPOCH_OF_SEQ, "SELECT epoch FROM epoch WHERE switch_seq<?1 ORDER BY switch_seq DESC LIMIT 1")                      \
    X(DENTRY_CUT, "DELETE FROM dentry WHERE parent=?1 AND cookie>=?2 AND cookie<?3")                                     \
    X(DENTRY_RANGE, "SELECT count(*) FROM dentry WHERE parent=?1 AND cookie>=?2 AND cookie<?3")                          \
    X(DENTRY_WIPE, "DELETE FROM dentry WHERE parent=?1")                                                                 \
    X(INODE_H_FORGET, "DELETE FROM inode_h WHERE ino=?1 AND died>?2")                                                    \
    X(DENTRY_H_FORGET, "DELETE FROM dentry_h WHERE parent=?1 AND died>?2")                                               \
    X(XATTR_H_FORGET, "DELETE FROM xattr_h WHERE ino=?1 AND died>?2")                                                    \
    X(EXTENT_H_FORGET, "DELETE FROM extent_h WHERE ino=?1 AND died>?2 AND off>=?3 AND off<?4")                           \
    X(MISSING_H_FORGET, "DELETE FROM missing WHERE ino=?1 AND died>?2 AND off>=?3 AND off<?4")                           \
    X(DATAFILE_IDLE, "SELECT ino,serial FROM datafile f WHERE ino NOT IN (SELECT ino FROM inode) OR (serial>0 AND "      \
                     "serial<(SELECT max(x.serial) FROM datafile x WHERE x.ino=f.ino))")                                 \
    /* sweep of history: a step starts behind the last key of the one before */                                          \
    X(SWEEP_INODE, "SELECT ino,died,seq FROM inode_h WHERE (ino,died)>(?1,?2) ORDER BY ino,died LIMIT ?3")               \
    X(SWEEP_INODE_DEL, "DELETE FROM inode_h WHERE ino=?1 AND died=?2")                                                   \
    X(SWEEP_DENTRY, "SELECT parent,died,born,name FROM dentry_h WHERE (parent,name,died)>(?1,?4,?2) "                    \
                    "ORDER BY parent,name,died LIMIT ?3")                                                                \
    X(SWEEP_DENTRY_DEL, "DELETE FROM dentry_h WHERE parent=?1 AND name=?3 AND died=?2")                                  \
    X(SWEEP_XATTR, "SELECT ino,died,born,name FROM xattr_h WHERE (ino,name,died)>(?1,?4,?2) "                            \
                   "ORDER BY ino,name,died LIMIT ?3")                                                                    \
    X(SWEEP_XATTR_DEL, "DELETE FROM xattr_h WHERE ino=?1 AND name=?3 AND died=?2")                                       \
    X(SWEEP_EXTENT, "SELECT " SQL_EXTENT_COLS ",died,data IS NOT NULL,ino FROM extent_h WHERE (ino,off,died)>(?1,?4,?2) " \
                    "ORDER BY ino,off,died LIMIT ?3")

enum store_sql {
#define X(id, text) SQL_##id,
    STORE_SQL(X)
#undef X
        SQL_COUNT
};

#endif
