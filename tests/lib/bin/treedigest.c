/* treedigest.c: one number for a directory tree, to tell whether two trees are the same.
 *
 *   treedigest [-l] [-x PREFIX]... [-X REGEX]... DIR
 *
 * Default: "HEX files=N dirs=N symlinks=N others=N bytes=N" on one line. -l: one line an entry,
 * which is exactly what the number is computed from, so that two listings can be compared with
 * diff. -x leaves out the path PREFIX (relative to DIR) and all below it, -X every path that the
 * extended regular expression finds.
 *
 * What counts: names as raw bytes, types, modes, owners, device numbers, nanosecond mtimes (of
 * directories and symlinks too), xattrs (user.*, trusted.*, security.*, POSIX ACLs), symlink
 * targets, size and bytes of files (a hole is zeros), which names are hard links of each other, and
 * the link count of what is not a directory. What never counts: atime, ctime, inode numbers, block
 * counts, sizes and link counts of directories.
 *
 * A line: type mode uid:gid mtime nlink size content xattrs same-as path [-> target]. Bytes outside
 * printable ASCII, blanks and backslashes are written \xHH. Directories are walked depth first,
 * names in byte order, so that "same-as" (the first path of a group of hard links) does not depend
 * on how the filesystem lists them. Failure: anything that cannot be read, or that changes type
 * while it is looked at, ends the program with 2; a digest is never printed for half a tree. One
 * thread. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>

#define RULES_MAX   64
#define XATTR_MAX   65536
#define CONTENT_BUF (1u << 20)

struct link {
    dev_t dev;
    ino_t ino;
    char *path; /* NULL: free slot */
};

static struct {
    bool list;
    const char *prefixes[RULES_MAX];
    regex_t regexes[RULES_MAX];
    int n_prefixes, n_regexes;
    XXH3_state_t *total;
    struct link *links; /* open hash table, for what has more than one name */
    size_t links_n, links_size;
    uint64_t files, dirs, symlinks, others, bytes;
    char *content;
} g;

static void __attribute__((noreturn, format(printf, 1, 2))) fatal(const char *fmt, ...)
{
    va_list ap;
    int e = errno;
    fputs("treedigest: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, ": %s\n", strerror(e));
    exit(2);
}

static void *must(void *p)
{
    if (!p)
        fatal("memory");
    return p;
}

/* --- one entry's line --- */

static void put_escaped(FILE *f, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c > ' ' && c < 127 && c != '\\')
            fputc(c, f);
        else
            fprintf(f, "\\x%02x", c);
    }
}

static bool counts(const char *xattr)
{
    return strncmp(xattr, "user.", 5) == 0 || strncmp(xattr, "trusted.", 8) == 0 ||
           strncmp(xattr, "security.", 9) == 0 || strncmp(xattr, "system.posix_acl_", 17) == 0;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* name=hash,name=hash in byte order of the names, or "-". `at` follows no symlink. */
static void put_xattrs(FILE *f, const char *at, const char *path)
{
    static char names[XATTR_MAX], value[XATTR_MAX];
    ssize_t n = llistxattr(at, names, sizeof(names));
    if (n < 0 && errno == ENOTSUP)
        n = 0;
    if (n < 0)
        fatal("xattrs of %s", path);
    const char *sorted[XATTR_MAX / 8];
    size_t count = 0;
    for (const char *p = names; p < names + n; p += strlen(p) + 1)
        if (counts(p) && count < sizeof(sorted) / sizeof(sorted[0]))
            sorted[count++] = p;
    qsort(sorted, count, sizeof(sorted[0]), by_bytes);
    for (size_t i = 0; i < count; i++) {
        ssize_t v = lgetxattr(at, sorted[i], value, sizeof(value));
        if (v < 0)
            fatal("xattr %s of %s", sorted[i], path);
        fputs(i ? "," : "", f);
        put_escaped(f, sorted[i], strlen(sorted[i]));
        fprintf(f, "=%zd:%016" PRIx64, v, XXH3_64bits(value, (size_t)v));
    }
    if (count == 0)
        fputc('-', f);
}

/* Hash of the bytes of a file, which must be as many as its size says. */
static void put_content(FILE *f, int dirfd, const char *name, const char *path,
                        const struct stat *st)
{
    int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME);
    if (fd < 0 && errno == EPERM) /* O_NOATIME is for owners */
        fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        fatal("open %s", path);
    XXH3_state_t *h = must(XXH3_createState());
    XXH3_128bits_reset(h);
    uint64_t done = 0;
    ssize_t n;
    while ((n = read(fd, g.content, CONTENT_BUF)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            fatal("read %s", path);
        XXH3_128bits_update(h, g.content, (size_t)n);
        done += (uint64_t)n;
    }
    close(fd);
    errno = EIO;
    if (done != (uint64_t)st->st_size)
        fatal("%s has %" PRIu64 " bytes and says %lld", path, done, (long long)st->st_size);
    XXH128_hash_t v = XXH3_128bits_digest(h);
    XXH3_freeState(h);
    fprintf(f, "%016" PRIx64 "%016" PRIx64, v.high64, v.low64);
    g.bytes += done;
}

static struct link *link_slot(dev_t dev, ino_t ino)
{
    struct {
        uint64_t dev, ino;
    } key = {dev, ino};
    size_t i = XXH3_64bits(&key, sizeof(key)) & (g.links_size - 1);
    while (g.links[i].path && (g.links[i].dev != dev || g.links[i].ino != ino))
        i = (i + 1) & (g.links_size - 1);
    return &g.links[i];
}

static void grow_links(void)
{
    struct link *old = g.links;
    size_t n = g.links_size;
    g.links_size = n ? 2 * n : 1024;
    g.links = must(calloc(g.links_size, sizeof(*g.links)));
    for (size_t i = 0; i < n; i++)
        if (old[i].path)
            *link_slot(old[i].dev, old[i].ino) = old[i];
    free(old);
}

/* The first path with this inode; NULL if it is this one. */
static const char *same_as(const struct stat *st, const char *path)
{
    if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
        return NULL;
    if (2 * g.links_n >= g.links_size)
        grow_links();
    struct link *l = link_slot(st->st_dev, st->st_ino);
    if (l->path)
        return l->path;
    *l = (struct link){st->st_dev, st->st_ino, must(strdup(path))};
    g.links_n++;
    return NULL;
}

static char type_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        g.files++;
        return 'f';
    case S_IFDIR:
        g.dirs++;
        return 'd';
    case S_IFLNK:
        g.symlinks++;
        return 'l';
    default:
        g.others++;
        return S_ISCHR(mode) ? 'c' : S_ISBLK(mode) ? 'b' : S_ISFIFO(mode) ? 'p' : 's';
    }
}

static void entry(int dirfd, const char *name, const char *path, const struct stat *st)
{
    char *line = NULL, *at, target[4097];
    size_t size = 0;
    FILE *f = must(open_memstream(&line, &size));
    char type = type_of(st->st_mode);
    fprintf(f, "%c %04o %u:%u %lld.%09ld ", type, st->st_mode & 07777u, st->st_uid, st->st_gid,
            (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    if (type == 'd')
        fputs("- - - ", f);
    else
        fprintf(f, "%lu ", (unsigned long)st->st_nlink);
    if (type == 'f') {
        fprintf(f, "%lld ", (long long)st->st_size);
        put_content(f, dirfd, name, path, st);
        fputc(' ', f);
    } else if (type == 'c' || type == 'b') {
        fprintf(f, "%u,%u - ", major(st->st_rdev), minor(st->st_rdev));
    } else if (type != 'd') {
        fputs("- - ", f);
    }
    if (asprintf(&at, "/proc/self/fd/%d/%s", dirfd, name) < 0)
        fatal("memory");
    put_xattrs(f, at, path);
    free(at);
    fputc(' ', f);
    const char *first = same_as(st, path);
    put_escaped(f, first ? first : "-", strlen(first ? first : "-"));
    fputc(' ', f);
    put_escaped(f, path, strlen(path));
    if (type == 'l') {
        ssize_t n = readlinkat(dirfd, name, target, sizeof(target));
        if (n < 0 || n != st->st_size)
            fatal("readlink %s", path);
        fputs(" -> ", f);
        put_escaped(f, target, (size_t)n);
    }
    fputc('\n', f);
    if (fclose(f) != 0)
        fatal("memory");
    XXH3_128bits_update(g.total, line, size);
    if (g.list)
        fwrite(line, 1, size, stdout);
    free(line);
}

/* --- the walk --- */

static bool excluded(const char *path)
{
    for (int i = 0; i < g.n_prefixes; i++) {
        size_t n = strlen(g.prefixes[i]);
        if (strncmp(path, g.prefixes[i], n) == 0 && (path[n] == '\0' || path[n] == '/'))
            return true;
    }
    for (int i = 0; i < g.n_regexes; i++)
        if (regexec(&g.regexes[i], path, 0, NULL, 0) == 0)
            return true;
    return false;
}

/* The names in a directory, in byte order; caller frees. */
static char **read_names(int fd, const char *path, size_t *ret_n)
{
    DIR *d = fdopendir(dup(fd));
    if (!d)
        fatal("list %s", path);
    char **names = NULL;
    size_t n = 0, cap = 0;
    struct dirent *e;
    for (errno = 0; (e = readdir(d)); errno = 0) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (n == cap) {
            cap = cap ? 2 * cap : 64;
            names = must(reallocarray(names, cap, sizeof(*names)));
        }
        names[n++] = must(strdup(e->d_name));
    }
    if (errno)
        fatal("list %s", path);
    closedir(d);
    if (n > 0)
        qsort(names, n, sizeof(*names), by_bytes);
    *ret_n = n;
    return names;
}

static void walk(int fd, const char *path)
{
    size_t n;
    char **names = read_names(fd, path, &n);
    for (size_t i = 0; i < n; i++) {
        char *sub;
        struct stat st;
        if (asprintf(&sub, "%s%s%s", path, *path ? "/" : "", names[i]) < 0)
            fatal("memory");
        if (!excluded(sub)) {
            if (fstatat(fd, names[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
                fatal("stat %s", sub);
            entry(fd, names[i], sub, &st);
            if (S_ISDIR(st.st_mode)) {
                int child = openat(fd, names[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (child < 0)
                    fatal("open %s", sub);
                walk(child, sub);
                close(child);
            }
        }
        free(sub);
        free(names[i]);
    }
    free(names);
}

static void __attribute__((noreturn)) usage(void)
{
    fputs("usage: treedigest [-l] [-x PREFIX]... [-X REGEX]... DIR\n", stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    int opt;
    while ((opt = getopt(argc, argv, "lx:X:")) != -1) {
        if (opt == 'l')
            g.list = true;
        else if (opt == 'x' && g.n_prefixes < RULES_MAX)
            g.prefixes[g.n_prefixes++] = optarg;
        else if (opt == 'X' && g.n_regexes < RULES_MAX &&
                 regcomp(&g.regexes[g.n_regexes], optarg, REG_EXTENDED | REG_NOSUB) == 0)
            g.n_regexes++;
        else
            usage();
    }
    if (optind != argc - 1)
        usage();
    g.total = must(XXH3_createState());
    XXH3_128bits_reset(g.total);
    g.content = must(malloc(CONTENT_BUF));
    int fd = open(argv[optind], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        fatal("%s", argv[optind]);
    entry(fd, ".", ".", &st);
    walk(fd, "");
    close(fd);
    XXH128_hash_t v = XXH3_128bits_digest(g.total);
    if (!g.list)
        printf("%016" PRIx64 "%016" PRIx64 " files=%" PRIu64 " dirs=%" PRIu64 " symlinks=%" PRIu64
               " others=%" PRIu64 " bytes=%" PRIu64 "\n",
               v.high64, v.low64, g.files, g.dirs, g.symlinks, g.others, g.bytes);
    XXH3_freeState(g.total);
    free(g.content);
    for (size_t i = 0; i < g.links_size; i++)
        free(g.links[i].path);
    free(g.links);
    for (int i = 0; i < g.n_regexes; i++)
        regfree(&g.regexes[i]);
    return fflush(stdout) == 0 ? 0 : 2;
}
