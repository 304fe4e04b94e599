/* treedigest.c: one number for a directory tree, computed through POSIX calls.
 *
 *   treedigest [-l] [-x PREFIX]... [-X REGEX] DIR
 *
 * The same SHA-256 as dmt_ws_digest computes from a store (docs/formats-records.md, "Tree digest"),
 * written independently of it: entries depth first, names in byte order; path, type, mode, owner,
 * mtime, content or target or device, xattrs; a second name of an inode says which name was the
 * first. A mount, a native directory, a restored tree: equal numbers mean equal trees. -l prints
 * each entry's own hash first, so that two runs can be compared with diff. -x leaves out a path
 * (whole names) and what is below it, -X what matches. `.snapshots` is skipped if listed. Exit 1 on
 * any read error, 2 when DIR is no directory.
 * Thread: main only. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/base/bytes.h"
#include "fs/base/hash.h"

#define CHUNK (1u << 20)

struct seen {
    dev_t dev;
    ino_t ino;
    char *path;
};

static EVP_MD_CTX *all;
static struct seen *seen;
static size_t n_seen, cap_seen;
static unsigned char chunk[CHUNK];
static int verbose, bad;
static const char *prefix[16];
static int prefixes;
static regex_t regex;
static int has_regex;

static void complain(const char *path)
{
    fprintf(stderr, "treedigest: %s: %s\n", path, strerror(errno));
    bad = 1;
}

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "treedigest: out of memory\n");
        exit(1);
    }
    return p;
}

/* The first path of an inode with several names, NULL when this is it. */
static const char *first_name(const struct stat *st, const char *path)
{
    if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
        return NULL;
    if (n_seen * 2 >= cap_seen) {
        size_t cap = cap_seen ? cap_seen * 2 : 1024;
        struct seen *big = must(calloc(cap, sizeof(*big)));
        for (size_t i = 0; i < cap_seen; i++) {
            size_t at = seen[i].ino % cap;
            while (seen[i].path && big[at].path)
                at = (at + 1) % cap;
            if (seen[i].path)
                big[at] = seen[i];
        }
        free(seen);
        seen = big;
        cap_seen = cap;
    }
    size_t at = st->st_ino % cap_seen;
    for (; seen[at].path; at = (at + 1) % cap_seen)
        if (seen[at].ino == st->st_ino && seen[at].dev == st->st_dev)
            return seen[at].path;
    seen[at] = (struct seen){st->st_dev, st->st_ino, must(strdup(path))};
    n_seen++;
    return NULL;
}

static void add_content(struct dmt_buf *e, int dirfd, const char *name, const char *path,
                        uint64_t size)
{
    unsigned char sum[EVP_MAX_MD_SIZE] = {0};
    unsigned len;
    uint64_t total = 0;
    EVP_MD_CTX *one = must(EVP_MD_CTX_new());
    int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    EVP_DigestInit_ex(one, EVP_sha256(), NULL);
    ssize_t n = fd < 0 ? -1 : 0;
    while (fd >= 0 && (n = read(fd, chunk, CHUNK)) > 0) {
        EVP_DigestUpdate(one, chunk, (size_t)n);
        total += (uint64_t)n;
    }
    if (n < 0)
        complain(path);
    else if (total != size) {
        errno = EBUSY; /* it changes while we read */
        complain(path);
    }
    if (fd >= 0)
        close(fd);
    EVP_DigestFinal_ex(one, sum, &len);
    EVP_MD_CTX_free(one);
    dmt_put_u64(e, size);
    dmt_put_raw(e, sum, 32);
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int counts(const char *name)
{
    return strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0 ||
           strcmp(name, "security.capability") == 0 ||
           strcmp(name, "system.posix_acl_access") == 0 ||
           strcmp(name, "system.posix_acl_default") == 0;
}

static void add_xattrs(struct dmt_buf *e, const char *full)
{
    static char list[65536], val[65536];
    char *names[2048];
    uint32_t n = 0;
    ssize_t len = llistxattr(full, list, sizeof(list));
    if (len < 0 && errno != ENOTSUP)
        complain(full);
    for (char *p = list; len > 0 && p < list + len && n < 2048; p += strlen(p) + 1)
        if (counts(p))
            names[n++] = p;
    if (n > 0)
        qsort(names, n, sizeof(names[0]), by_string);
    dmt_put_u32(e, n);
    for (uint32_t i = 0; i < n; i++) {
        ssize_t got = lgetxattr(full, names[i], val, sizeof(val));
        if (got < 0)
            complain(full);
        dmt_put_str(e, names[i]);
        dmt_put_bytes(e, val, got < 0 ? 0 : (size_t)got);
    }
}

static char letter(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return 'd';
    case S_IFREG:
        return 'f';
    case S_IFLNK:
        return 'l';
    case S_IFCHR:
        return 'c';
    case S_IFBLK:
        return 'b';
    case S_IFIFO:
        return 'p';
    default:
        return 's';
    }
}

static void add_entry(int dirfd, const char *name, const char *full, const char *path,
                      const struct stat *st)
{
    static char target[4097];
    struct dmt_buf e;
    const char *first = first_name(st, path);
    dmt_buf_init(&e);
    dmt_put_str(&e, path);
    dmt_put_u8(&e, (uint8_t)letter(st->st_mode));
    dmt_put_u32(&e, S_ISLNK(st->st_mode) ? 0777 : st->st_mode & 07777);
    dmt_put_u32(&e, st->st_uid);
    dmt_put_u32(&e, st->st_gid);
    dmt_put_u64(&e, (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec);
    dmt_put_u8(&e, first ? 'H' : '-');
    if (first) {
        dmt_put_str(&e, first);
    } else {
        if (S_ISREG(st->st_mode)) {
            add_content(&e, dirfd, name, path, (uint64_t)st->st_size);
        } else if (S_ISLNK(st->st_mode)) {
            ssize_t n = readlinkat(dirfd, name, target, sizeof(target));
            if (n < 0)
                complain(path);
            dmt_put_bytes(&e, target, n < 0 ? 0 : (size_t)n);
        } else if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
            dmt_put_u64(&e, st->st_rdev);
        }
        add_xattrs(&e, full);
    }
    if (e.bad)
        must(NULL);
    EVP_DigestUpdate(all, e.p, e.len);
    if (verbose)
        printf("%016llx %c %s\n", (unsigned long long)dmt_hash64(0, e.p, e.len),
               letter(st->st_mode), path);
    dmt_buf_free(&e);
}

static void walk(int dirfd, const char *name, const char *full, const char *path);

static void walk_dir(int fd, const char *full, const char *path)
{
    char **names = NULL;
    size_t n = 0, cap = 0;
    DIR *d = fdopendir(fd);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            (*path == '\0' && strcmp(e->d_name, ".snapshots") == 0))
            continue;
        if (n == cap)
            names = must(realloc(names, (cap = cap ? cap * 2 : 64) * sizeof(*names)));
        names[n++] = must(strdup(e->d_name));
    }
    if (n > 0)
        qsort(names, n, sizeof(*names), by_string);
    for (size_t i = 0; i < n; i++) {
        char *f, *p;
        if (asprintf(&f, "%s/%s", full, names[i]) < 0 ||
            asprintf(&p, "%s%s%s", path, *path ? "/" : "", names[i]) < 0)
            must(NULL);
        walk(dirfd(d), names[i], f, p);
        free(f);
        free(p);
        free(names[i]);
    }
    free(names);
    if (d)
        closedir(d);
}

static int left_out(const char *path)
{
    for (int i = 0; i < prefixes; i++) {
        size_t n = strlen(prefix[i]);
        if (strncmp(path, prefix[i], n) == 0 && (path[n] == '\0' || path[n] == '/'))
            return 1;
    }
    return has_regex && regexec(&regex, path, 0, NULL, 0) == 0;
}

static void walk(int at, const char *name, const char *full, const char *path)
{
    struct stat st;
    if (*path && left_out(path))
        return;
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        complain(full);
        return;
    }
    add_entry(at, name, full, path, &st);
    if (!S_ISDIR(st.st_mode))
        return;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        complain(full);
    else
        walk_dir(fd, full, path);
}

static int usage(void)
{
    fprintf(stderr, "usage: treedigest [-l] [-x PREFIX]... [-X REGEX] DIR\n");
    return 2;
}

int main(int argc, char **argv)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned len;
    char hex[65];
    struct stat st;
    int o;
    while ((o = getopt(argc, argv, "lx:X:")) != -1) {
        if (o == 'l')
            verbose = 1;
        else if (o == 'x' && prefixes < 16)
            prefix[prefixes++] = optarg;
        else if (o == 'X' && !has_regex && regcomp(&regex, optarg, REG_EXTENDED | REG_NOSUB) == 0)
            has_regex = 1;
        else
            return usage();
    }
    if (optind + 1 != argc)
        return usage();
    if (stat(argv[optind], &st) != 0 || !S_ISDIR(st.st_mode)) {
        fprintf(stderr, "treedigest: %s is no directory\n", argv[optind]);
        return 2;
    }
    all = must(EVP_MD_CTX_new());
    EVP_DigestInit_ex(all, EVP_sha256(), NULL);
    walk(AT_FDCWD, argv[optind], argv[optind], "");
    EVP_DigestFinal_ex(all, sum, &len);
    EVP_MD_CTX_free(all);
    for (size_t i = 0; i < cap_seen; i++)
        free(seen[i].path);
    free(seen);
    if (has_regex)
        regfree(&regex);
    dmt_hex(sum, 32, hex);
    printf("%s\n", hex);
    return bad;
}
