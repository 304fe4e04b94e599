/* fusefloor.c: a FUSE filesystem that does nothing: what a request costs before any filesystem has
 * done anything. The floor of `make bench`.
 *
 *   fusefloor DIR [FILE]   mounts on DIR, serves until it is unmounted or gets SIGTERM
 *
 * The same libfuse low-level calls, INIT flags, timeouts and receive loop as fs/fuse: one reader,
 * own read(2), OPEN, OPENDIR, FLUSH and CREATE answered ENOSYS. Names and sizes are kept in memory,
 * because workloads must be able to run on it; bytes are thrown away, reads give zeros, fsync does
 * nothing. With FILE bytes go there, each at its offset, and fsync is fdatasync of it: what a sync
 * costs before any filesystem has done anything. One thread.
 */
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "fs/base/fuse_init.h"
#include "fs/base/limits.h"

#define FOREVER 1e9
#define BUCKETS (1u << 20)
#define PAGE    4096u

struct node {
    struct node *hash_next, *sib_next, *sib_prev, *child; /* child: first of a directory */
    struct node *parent;
    uint64_t cookie; /* in its directory, rising */
    struct stat st;
    char name[DMT_NAME_MAX + 1];
};

static struct node root, *bucket[BUCKETS];
static uint64_t next_cookie = 3;
static int feeding, fd_fuse, fd_bytes = -1;
static char *zeros;

static struct node *node_of(fuse_ino_t ino)
{
    return ino == 1 ? &root : (struct node *)(uintptr_t)ino; /* one process, never restarted */
}

static fuse_ino_t ino_of(const struct node *n)
{
    return n == &root ? 1 : (uintptr_t)n;
}

static unsigned hash(const struct node *parent, const char *name)
{
    uint64_t h = (uintptr_t)parent * 0x9e3779b97f4a7c15u;
    while (*name)
        h = (h ^ (unsigned char)*name++) * 0x100000001b3u;
    return (unsigned)(h >> 32) % BUCKETS;
}

static struct node *find(const struct node *parent, const char *name)
{
    for (struct node *n = bucket[hash(parent, name)]; n; n = n->hash_next)
        if (n->parent == parent && strcmp(n->name, name) == 0)
            return n;
    return NULL;
}

static void attach(struct node *n, struct node *parent, const char *name)
{
    struct node **b = &bucket[hash(parent, name)];
    (void)snprintf(n->name, sizeof(n->name), "%s", name);
    n->hash_next = *b;
    *b = n;
    n->parent = parent;
    n->cookie = next_cookie++;
    n->sib_prev = NULL;
    n->sib_next = parent->child;
    if (parent->child)
        parent->child->sib_prev = n;
    parent->child = n;
}

static void detach(struct node *n)
{
    struct node **at = &bucket[hash(n->parent, n->name)];
    while (*at != n)
        at = &(*at)->hash_next;
    *at = n->hash_next;
    if (n->sib_next)
        n->sib_next->sib_prev = n->sib_prev;
    if (n->sib_prev)
        n->sib_prev->sib_next = n->sib_next;
    else
        n->parent->child = n->sib_next;
    n->parent = NULL;
}

static struct fuse_entry_param entry(const struct node *n)
{
    struct fuse_entry_param e = {.attr_timeout = FOREVER, .entry_timeout = FOREVER};
    e.ino = ino_of(n);
    e.attr = n->st;
    return e;
}

/* --- requests ------------------------------------------------------------------------------ */

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct node *n = find(node_of(parent), name);
    struct fuse_entry_param none = {.entry_timeout = FOREVER};
    struct fuse_entry_param e = n ? entry(n) : none;
    (void)fuse_reply_entry(req, &e);
}

static void do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
    (void)ino, (void)n;
    fuse_reply_none(req);
}

static void do_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *f)
{
    (void)n, (void)f;
    fuse_reply_none(req);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    (void)fuse_reply_attr(req, &node_of(ino)->st, FOREVER);
}

static void do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
                       struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    (void)fi;
    if (to_set & FUSE_SET_ATTR_MODE)
        n->st.st_mode = (n->st.st_mode & S_IFMT) | (st->st_mode & 07777);
    if (to_set & FUSE_SET_ATTR_SIZE)
        n->st.st_size = st->st_size;
    (void)fuse_reply_attr(req, &n->st, FOREVER);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    const struct fuse_ctx *c = fuse_req_ctx(req);
    struct node *n = calloc(1, sizeof(*n));
    if (!n) {
        (void)fuse_reply_err(req, ENOMEM);
        return;
    }
    attach(n, node_of(parent), name);
    n->st.st_ino = ino_of(n);
    n->st.st_mode = mode & ~c->umask;
    n->st.st_nlink = S_ISDIR(mode) ? 2 : 1;
    n->st.st_uid = c->uid;
    n->st.st_gid = c->gid;
    n->st.st_blksize = PAGE;
    clock_gettime(CLOCK_REALTIME, &n->st.st_mtim);
    n->st.st_atim = n->st.st_ctim = n->st.st_mtim;
    struct fuse_entry_param e = entry(n);
    (void)fuse_reply_entry(req, &e);
}

static void do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    (void)rdev;
    make(req, parent, name, mode & S_IFMT ? mode : mode | S_IFREG);
}

static void do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make(req, parent, name, (mode & ~(mode_t)S_IFMT) | S_IFDIR);
}

static void do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    (void)target; /* bytes are thrown away */
    make(req, parent, name, S_IFLNK | 0777);
}

static void do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct node *n = find(node_of(parent), name);
    /* The node stays allocated: the kernel may still name it. A benchmark's worth of them fits. */
    if (n)
        detach(n);
    (void)fuse_reply_err(req, n ? 0 : ENOENT);
}

static void do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
                      const char *newname, unsigned int flags)
{
    struct node *n = find(node_of(parent), name), *old = find(node_of(newparent), newname);
    if (!n || flags) {
        (void)fuse_reply_err(req, n ? EINVAL : ENOENT);
        return;
    }
    if (old)
        detach(old);
    detach(n);
    attach(n, node_of(newparent), newname);
    (void)fuse_reply_err(req, 0);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    off_t end = node_of(ino)->st.st_size;
    (void)fi;
    if (off >= end)
        size = 0;
    else if (size > (size_t)(end - off))
        size = (size_t)(end - off);
    (void)fuse_reply_buf(req, zeros, size > DMT_WRITE_MAX ? DMT_WRITE_MAX : size);
}

static void do_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    struct node *n = node_of(ino);
    (void)fi;
    if (fd_bytes >= 0 && pwrite(fd_bytes, buf, size, off) != (ssize_t)size) {
        (void)fuse_reply_err(req, EIO);
        return;
    }
    if (off + (off_t)size > n->st.st_size)
        n->st.st_size = off + (off_t)size;
    n->st.st_blocks = (n->st.st_size + 511) / 512;
    (void)fuse_reply_write(req, size);
}

static void do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)ino, (void)datasync, (void)fi;
    (void)fuse_reply_err(req, fd_bytes >= 0 && fdatasync(fd_bytes) < 0 ? EIO : 0);
}

static void enosys(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino, (void)fi;
    (void)fuse_reply_err(req, ENOSYS);
}

static void do_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs sv = {.f_bsize = PAGE, .f_frsize = PAGE, .f_namemax = DMT_NAME_MAX};
    (void)ino;
    sv.f_blocks = sv.f_bfree = sv.f_bavail = 1u << 28;
    (void)fuse_reply_statfs(req, &sv);
}

/* Children stand newest first, so cookies fall along the list: "after" means smaller. */
static void read_dir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, int plus)
{
    static char buf[DMT_WRITE_MAX];
    struct node *dir = node_of(ino), *n = dir->child;
    size_t used = 0;

    if (size > sizeof(buf))
        size = sizeof(buf);
    while (off && n && n->cookie >= (uint64_t)off)
        n = n->sib_next;
    for (; n; n = n->sib_next) {
        struct fuse_entry_param e = entry(n);
        size_t left = size - used, need;
        if (plus)
            need = fuse_add_direntry_plus(req, buf + used, left, n->name, &e, (off_t)n->cookie);
        else
            need = fuse_add_direntry(req, buf + used, left, n->name, &e.attr, (off_t)n->cookie);
        if (need > left)
            break;
        used += need;
    }
    (void)fuse_reply_buf(req, buf, used);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    (void)fi;
    read_dir(req, ino, size, off, 0);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                           struct fuse_file_info *fi)
{
    (void)fi;
    read_dir(req, ino, size, off, 1);
}

/* --- the connection ------------------------------------------------------------------------- */

static ssize_t io_writev(int fd, struct iovec *iov, int n, void *arg)
{
    ssize_t sum = 0;
    (void)arg;
    if (!feeding)
        return writev(fd, iov, n);
    for (int i = 0; i < n; i++)
        sum += (ssize_t)iov[i].iov_len;
    return sum;
}

static ssize_t io_read(int fd, void *buf, size_t n, void *arg)
{
    (void)arg;
    return read(fd, buf, n);
}

static struct fuse_session *open_session(const char *dir)
{
    static const struct fuse_lowlevel_ops ops = {.lookup = do_lookup,
                                                 .forget = do_forget,
                                                 .forget_multi = do_forget_multi,
                                                 .getattr = do_getattr,
                                                 .setattr = do_setattr,
                                                 .mknod = do_mknod,
                                                 .mkdir = do_mkdir,
                                                 .symlink = do_symlink,
                                                 .unlink = do_unlink,
                                                 .rmdir = do_unlink,
                                                 .rename = do_rename,
                                                 .read = do_read,
                                                 .write = do_write,
                                                 .fsync = do_fsync,
                                                 .fsyncdir = do_fsync,
                                                 .open = enosys,
                                                 .opendir = enosys,
                                                 .flush = enosys,
                                                 .statfs = do_statfs,
                                                 .readdir = do_readdir,
                                                 .readdirplus = do_readdirplus};
    static const struct fuse_custom_io io = {.writev = io_writev, .read = io_read};
    static uint8_t init[512] __attribute__((aligned(8)));
    char *argv[] = {(char *)(uintptr_t) "fusefloor", NULL}, data[128];
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    struct fuse_buf fb = {.mem = init};
    struct dmt_err err = {0};
    uint32_t init_len;

    fd_fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    (void)snprintf(data, sizeof(data),
                   "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
                   fd_fuse);
    if (fd_fuse < 0 || mount("floor", dir, "fuse.floor", MS_NOATIME, data) < 0) {
        perror("fusefloor: mount");
        return NULL;
    }
    if (dmt_fuse_init_serve(fd_fuse, init, sizeof(init), &init_len, &err) < 0) {
        (void)fprintf(stderr, "fusefloor: %s\n", err.msg);
        return NULL;
    }
    struct fuse_session *se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
    if (!se || fuse_session_custom_io(se, &io, fd_fuse) != 0)
        return NULL;
    fb.size = init_len;
    feeding = 1;
    fuse_session_process_buf(se, &fb);
    feeding = 0;
    return se;
}

static const char *mounted_on;

static void on_term(int sig)
{
    (void)sig;
    (void)umount2(mounted_on, MNT_DETACH); /* the loop then reads ENODEV */
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_term, .sa_flags = SA_RESTART};
    size_t size = PAGE + DMT_WRITE_MAX + PAGE;
    uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *buf = map + PAGE - 80;

    if (argc != 2 && argc != 3) {
        (void)fprintf(stderr, "usage: fusefloor DIR [FILE]\n");
        return 1;
    }
    if (argc == 3 && (fd_bytes = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0) {
        perror(argv[2]);
        return 1;
    }
    zeros = calloc(1, DMT_WRITE_MAX);
    root.st.st_ino = 1;
    root.st.st_mode = S_IFDIR | 0755;
    root.st.st_nlink = 2;
    mounted_on = argv[1];
    struct fuse_session *se = map == MAP_FAILED || !zeros ? NULL : open_session(argv[1]);
    if (!se)
        return 1;
    (void)sigaction(SIGTERM, &sa, NULL);
    (void)sigaction(SIGINT, &sa, NULL);
    for (;;) {
        ssize_t n = read(fd_fuse, buf, size - (PAGE - 80));
        if (n < 0 && (errno == EINTR || errno == ENOENT))
            continue;
        if (n <= 0)
            break;
        struct fuse_buf fb = {.size = (size_t)n, .mem = buf};
        fuse_session_process_buf(se, &fb);
    }
    fuse_session_destroy(se);
    free(zeros);
    return 0;
}
