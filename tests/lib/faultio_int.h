/* faultio_int.h: what the files of the double share: the disk it pretends to have (faultio_disk.c), and the way in that every
 * operation takes (faultio.c), which SQLite's operations take too (faultvfs.c). */
#ifndef DMT_TESTS_FAULTIO_INT_H
#define DMT_TESTS_FAULTIO_INT_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/base/log.h"
#include "tests/lib/faultio.h"

#define FDS_MAX 4096

/* The real disk must do what it is told. */
#define MUST(cond) DMT_ASSERT(cond)

/* Bytes that copies of a disk share. */
struct blob {
    int refs;
    uint64_t size;
    uint8_t *p;
    uint64_t hash; /* 0: not known */
};

/* A change of a file that no sync has covered: bytes, or (data NULL) a new size. */
struct change {
    struct change *next;
    uint64_t off, len;
    struct blob *data;
};

struct file {
    struct file *next;
    ino_t ino;
    int users;          /* descriptors and names; 0: may be forgotten */
    struct blob *disk;  /* durable content; to be owned alone before it is changed */
    struct change *changes, **changes_end;
    struct file *copy;  /* while a disk is copied */
};

struct name {
    struct name *next;
    char *path; /* below the root, with a slash in front */
    struct file *file;
};

enum dirop_kind { DIROP_CREATE, DIROP_RENAME, DIROP_UNLINK };
struct dirop {
    struct dirop *next;
    enum dirop_kind kind;
    char *from, *to; /* to: the name concerned; from: of a rename */
    struct file *file;
};

struct disk {
    struct file *files;
    struct name *names;   /* durable */
    struct dirop *dirops; /* since */
};

struct faultio {
    struct faultio *next; /* of all that live */
    struct dmt_io io;
    char *root;
    size_t root_len;
    pthread_mutex_t lock; /* recursive: a watcher may ask */
    pthread_cond_t cond;
    uint64_t random;
    struct disk disk;
    struct file *fds[FDS_MAX];
    char *fd_paths[FDS_MAX];
    const char *match; /* see faultio_match */
    uint64_t counts[16];
    uint64_t cut_in; /* counted operations until the cut; 0 none */
    bool is_cut;
    uint64_t space; /* see faultio_space */
    unsigned fail_mask, hold_mask, held;
    uint64_t fail_in, fail_times, failed;
    int fail_errno;
    faultio_watch_fn watch;
    void *watch_ctx;
};

/* --- faultio_disk.c; the lock is held */
void *faultio_alloc(size_t n);
char *faultio_dup(const char *s);
struct file *faultio_file(struct disk *d, ino_t ino); /* made when unknown */
void faultio_forget(struct disk *d, struct file *file); /* one user less */
void faultio_change(struct file *file, uint64_t off, const void *data, uint64_t len);
void faultio_synced(struct file *file, bool apply); /* no pending changes any more */
void faultio_dirop(struct disk *d, enum dirop_kind kind, const char *from, const char *to, struct file *file);
void faultio_sync_names(struct disk *d, const char *dir);
void faultio_adopt(struct disk *d, const char *root);
void faultio_disk_copy(struct disk *to, const struct disk *from);
void faultio_disk_free(struct disk *d);
/* Settles what is pending, and makes the directory look like it. */
void faultio_settle(struct disk *d, enum faultio_mode mode, uint64_t *random);
void faultio_write_out(struct disk *d, const char *root);

/* --- faultio.c */
/* Called with the lock at the start of each operation: 0, or the error it fails with. *cut: it is the one that was cut. */
int faultio_enter(struct faultio *f, unsigned kind, const char *path, bool *cut);
/* The file becomes `to` bytes long instead of `from`: 0, or -ENOSPC and nothing taken. */
int faultio_take(struct faultio *f, uint64_t from, uint64_t to);
void faultio_give(struct faultio *f, uint64_t from, uint64_t to);
/* Path below the root, or NULL. */
const char *faultio_below(const struct faultio *f, const char *path);

/* --- faultvfs.c */
void faultvfs_add(struct faultio *f);
void faultvfs_remove(struct faultio *f);

#endif
