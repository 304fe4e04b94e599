/* faultio.h: a disk that counts, fails, stops and forgets: the test twin of struct dmt_io
 * (fs/base/io.h).
 *
 * It works on real files below one real directory (`root`), so code that lists folders or opens a
 * file by another way sees what a kernel would show. Beside that it keeps in memory what a power
 * cut would leave: per file the content that was synced and the list of changes since; per folder
 * the names that were synced and the changes since. No real fsync is made, so tests are fast.
 *
 *     struct faultio *f = faultio_new(dir, seed);       // dir: existing, e.g. from mkdtemp; what
 * is in it counts as durable faultio_cut_at(f, 17);                            // the 17th counted
 * operation from now does not return
 *     ... run the code under test on faultio_io(f) until it has stopped (all operations fail with
 * EIO after the cut) ... faultio_restore(f, FAULTIO_RANDOM);               // the directory now
 * holds what a disk might hold; power is on again
 *     ... open again, check ...
 *
 * Counted operations: pwrite, pwritev, fdatasync, fsync, ftruncate, fallocate, rename, unlink,
 * mkdir, sync_dir, and an open that creates or truncates. pread, fstat, close and other opens are
 * not counted, but fail after a cut.
 *
 * Model. Data: a write is durable after an fdatasync or fsync of its file that began after it.
 * Until then each 4 KiB page of it may be on disk or not, whatever became of those written before
 * and after it (so they are dropped, and reordered), and a page may be torn at sectors of 512
 * bytes. A file may have got longer, with zeros where its bytes are lost. Sizes likewise. Names:
 * a change of a folder is durable after sync_dir of that folder (both of them, for a rename from
 * one to another: either sync carries it); the changes not yet synced survive in order up to some
 * point. fsync of a file does not make its name durable. A new folder
 * (mkdir) is durable at once. A failed fdatasync (injected) marks the file's changes clean without
 * having written them: they stay visible, and no later sync writes them (what Linux does); writing
 * the same bytes again makes them dirty again.
 *
 * SQLite: while a double lives, databases below its root go through it too (faultvfs.c): a VFS of
 * its own around SQLite's, put in as the default one, so that the code under test runs as it is.
 * Writes, syncs, truncations, deletions and creations of database and WAL are counted, failed and
 * cut like all others; the WAL index (shared memory) and locks are not: they do not outlive a
 * process.
 *
 * Threads: any number use the io; the control functions too. One lock serialises everything but
 * held operations.
 */
#ifndef DMT_TESTS_FAULTIO_H
#define DMT_TESTS_FAULTIO_H

#include <stdbool.h>
#include <stdint.h>
#include "fs/base/io.h"

enum {
    FAULTIO_WRITE = 1,    /* pwrite, pwritev */
    FAULTIO_SYNC = 2,     /* fdatasync, fsync */
    FAULTIO_TRUNCATE = 4, /* ftruncate */
    FAULTIO_FALLOCATE = 8,
    FAULTIO_RENAME = 16,
    FAULTIO_UNLINK = 32,
    FAULTIO_MKDIR = 64,
    FAULTIO_SYNC_DIR = 128,
    FAULTIO_CREATE = 256, /* open with O_CREAT of a new file, or O_TRUNC */
    FAULTIO_READ = 512,   /* pread: may be failed or held, is not counted */
    FAULTIO_ALL = 511
};

enum faultio_mode {
    FAULTIO_KILL,  /* the process died, the kernel lives: everything done is there, not more durable
                      than before */
    FAULTIO_KEEP,  /* power cut, and by luck all of it had reached the disk */
    FAULTIO_DROP,  /* power cut, nothing that was not synced had */
    FAULTIO_RANDOM /* power cut, any part of it had, in pages and sectors */
};

struct faultio;
/* What a disk holds for certain and what is pending, at one moment. */
struct faultio_state;
struct faultio *faultio_new(const char *root, uint64_t seed);
/* Leaves the directory as it is. */
void faultio_free(struct faultio *f);
const struct dmt_io *faultio_io(struct faultio *f);

/* Counted operations of the kinds in mask since faultio_new. */
uint64_t faultio_count(struct faultio *f, unsigned mask);
/* The nth (1 = next) operation of a kind in mask fails with -errno_code and does nothing (for sync
 * see above), and so do the next ones, `times` in all (UINT64_MAX: for good). One such rule at a
 * time; times = 0 takes it away. */
void faultio_fail(struct faultio *f, unsigned mask, uint64_t nth, uint64_t times, int errno_code);
/* Operations that failed by such rules since faultio_new. */
uint64_t faultio_failed(struct faultio *f);
/* Rules of faultio_fail and faultio_hold concern only operations on paths that contain `part` (the
 * name a file was opened by; the new name of a rename; the folder of sync_dir). NULL: all. The
 * string must live on. */
void faultio_match(struct faultio *f, const char *part);
/* From the nth (1 = next) counted operation on everything fails with -EIO: power cut or kill in
 * that operation. A write that is cut is pending as a whole; other operations have not happened. 0:
 * no cut. */
void faultio_cut_at(struct faultio *f, uint64_t nth);
bool faultio_is_cut(struct faultio *f);
/* Cuts now. */
void faultio_cut(struct faultio *f);
/* After the code under test has stopped: makes the directory what it may look like after the event
 * and lets operations pass again. Open descriptors of the past must not be used any more. Rules of
 * faultio_fail and holds are taken away. */
void faultio_restore(struct faultio *f, enum faultio_mode mode);

/* Bytes that files may still grow by; what does not fit fails with -ENOSPC. Cutting and deleting files
 * gives room back. UINT64_MAX: no limit. */
void faultio_space(struct faultio *f, uint64_t bytes);
uint64_t faultio_space_left(struct faultio *f);

/* fn is called before each counted operation, under the lock; it may call faultio_state and
 * faultio_count. */
typedef void (*faultio_watch_fn)(void *ctx, unsigned kind, const char *path);
void faultio_watch(struct faultio *f, faultio_watch_fn fn, void *ctx);
/* A copy of the present state: a power cut now, to be looked at later, in as many ways as wanted. */
struct faultio_state *faultio_state(struct faultio *f);
/* What a disk may hold after that cut (s stays as it was); *ret_hash is equal for equal contents. */
struct faultio_state *faultio_state_settle(const struct faultio_state *s, enum faultio_mode mode,
                                           uint64_t seed, uint64_t *ret_hash);
/* Makes dir look like a settled state: regular files below it are removed first; folders must be
 * there. */
void faultio_state_write(struct faultio_state *s, const char *dir);
void faultio_state_free(struct faultio_state *s);

/* What a settled power cut has made of the pending writes of one file, in pages. */
struct faultio_pages {
    uint64_t kept, lost, torn;
    uint64_t late;   /* kept, though one written before it is lost: reordered */
    uint64_t zeroed; /* lost, but the file is as long as with them */
};
/* fn is called for each file that had any, in all doubles of this process. NULL: nobody. */
typedef void (*faultio_pages_fn)(const char *path, const struct faultio_pages *p);
void faultio_watch_pages(faultio_pages_fn fn);

/* Operations of these kinds wait until faultio_release. */
void faultio_hold(struct faultio *f, unsigned mask);
void faultio_release(struct faultio *f);
/* Waits until n operations are being held. */
void faultio_wait_held(struct faultio *f, unsigned n);

#endif
