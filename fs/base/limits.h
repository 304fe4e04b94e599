/* limits.h: every size that a user, a peer or a disk can choose, in one place. */
#ifndef DMT_BASE_LIMITS_H
#define DMT_BASE_LIMITS_H

#define DMT_NAME_MAX             255u              /* bytes of one directory entry */
#define DMT_SYMLINK_MAX          4095u             /* bytes of a symlink target */
#define DMT_XATTR_NAME_MAX       255u
#define DMT_XATTR_VALUE_MAX      65536u
#define DMT_LINK_MAX             65000u
#define DMT_FILE_SIZE_MAX        (1ull << 44)      /* 16 TiB, what one ext4 data file can hold */
#define DMT_WRITE_MAX            (1u << 20)        /* bytes of one FUSE write */
#define DMT_RECORD_MAX           ((1u << 20) + (128u << 10)) /* one journal record, header included */
#define DMT_JOURNAL_KEEP         (1ull << 30) /* default of journal_keep= */
#define DMT_SEGMENT_BYTES        (64u << 20)
#define DMT_BALLAST_BYTES        (64u << 20)       /* held in a store for a checkpoint on a full disk */
#define DMT_WS_NAME_MAX          64u               /* workspace names: [A-Za-z0-9][A-Za-z0-9._-]* */
#define DMT_NODE_NAME_MAX        64u
#define DMT_SNAP_NAME_MAX        128u
#define DMT_REASON_MAX           256u
#define DMT_INLINE_BUDGET        (1u << 20)        /* unsynced new bytes of a file before writes may go by reference */
#define DMT_REF_RUN_MIN          (64u << 10)       /* length of a sequential run before that */
/* bytes of one write by reference from which it does not stay in the page cache */
#define DMT_REF_LONG_MIN         (128u << 10)
#define DMT_SMALL_MAX            (64u << 10)       /* files up to this size live in the database */
#define DMT_DIRTY_ROWS_MAX       65536u            /* changed rows in the active layer before a checkpoint starts */
#define DMT_DIRTY_BYTES_MIN      (32u << 20)       /* inline bytes in memory for which a checkpoint is worth its while */
#define DMT_DIRTY_BYTES_MAX      (64u << 20)       /* and before one starts that waits for nobody */
#define DMT_FRAME_MAX            (4u << 20)        /* one wire frame, uncompressed */
#define DMT_LAG_MAX              (64u << 20)       /* default lag_max */
#define DMT_PATH_MAX             4096u
#define DMT_INO_BITS             40                /* inode numbers; snapshot node ids use the bits above */
#define DMT_SNAP_SERIAL_BITS     23

#endif
