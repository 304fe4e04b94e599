/* stream.h: items of the state stream (docs/formats-store.md): u8 kind, u32 length, payload. Order: HEAD, rows and data in any
 * order, END. */
#ifndef DMT_STORE_STREAM_H
#define DMT_STORE_STREAM_H

#define STREAM_DIFF_MAGIC 0x2e464649444d4454ull /* "TDMDIFF." read as bytes: a difference (section 6) */
#define STREAM_BASIS_MAGIC 0x53495341424d4454ull /* "TMDBASIS": what the receiver of a difference has */
#define STREAM_MAGIC    0x45544154534d4454ull /* "TDMSTATE" read as bytes */
#define STREAM_VERSION  1u
#define STREAM_HEADER   5u
#define STREAM_ITEM_MAX (1u << 20) /* payload */
#define STREAM_DATA_MAX (256u << 10)

enum stream_kind {
    STREAM_HEAD = 1, /* U64 magic, U32 version, lineage[16], STR name, U64 epoch, seq, chain */
    STREAM_META,     /* STR key, BYTES value */
    STREAM_EPOCH,    /* U64 epoch, parent, switch_seq, switch_chain, time_ns, STR node, STR reason */
    STREAM_SNAP,     /* U64 serial, seq, epoch, time_ns, STR name, STR note */
    /* U64 died, ino, U32 mode, nlink, uid, gid, rdev, flags, U64 size, atime, mtime, ctime, btime, parent, U32 next_cookie, U64
     * epoch, seq, alloc */
    STREAM_INODE,
    STREAM_DENTRY,   /* U64 died, parent, BYTES name, U64 ino, U32 cookie, U32 type, U64 born */
    STREAM_XATTR,    /* U64 died, ino, BYTES name, BYTES value, U64 born */
    STREAM_CONTENT,  /* U64 ino, born, BYTES data, BYTES map */
    STREAM_EXTENT,   /* U64 died, ino, off, len, owner, U32 serial, U64 foff, U32 flags, U64 born, U8 has_data, BYTES data */
    STREAM_FILE,     /* U64 ino, U32 serial, U64 hwm */
    STREAM_MISSING,  /* U64 ino, off, seq, len, owner, U32 serial, U64 foff, U64 died, U32 shared */
    STREAM_KEEP,     /* U64 ino, src, view, size, mtime */
    STREAM_DATA,     /* U64 owner, U32 serial, U64 foff, BYTES data */
    STREAM_END, /* U64 inodes, live_bytes, pinned_bytes, U64 XXH3 of the items before (each item seeds the next) */
    /* only in a difference; its HEAD and END have other fields */
    STREAM_GONE,     /* U64 ino */
    STREAM_KEPT,     /* U64 ino, from, to: entries or bytes in this range are as they were */
    STREAM_PIECE,    /* U64 ino, off, len, born, died, U32 flags, U8 mode (enum stream_piece), BYTES data */
    STREAM_KINDS
};
enum stream_piece { PIECE_DATA, PIECE_MISSING, PIECE_KEPT, PIECE_LOST, PIECE_MODES };

#endif
