/* posix_names.c: names and directories (tests/lib/posix.h).
 *
 * Owns nothing. LARGE=N sets how many entries the large directory gets (default 20,000), and
 * LINKS=0 leaves out the 65,000 links. Thread: main. */
#include "tests/lib/posix.h"

#include <dirent.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#define NAME_BYTES 255
#define LINKS_MAX  65000

static bool exists(const char *name)
{
    struct stat st;
    return lstat(name, &st) == 0;
}

static bool contains(const char *name, const char *text)
{
    int fd = open(name, O_RDONLY);
    bool same = fd >= 0 && posix_reads(fd, 0, text, strlen(text));
    close(fd);
    return same;
}

static bool put(const char *name, const char *text)
{
    int fd = posix_file(name, text, strlen(text));
    return fd >= 0 && close(fd) == 0;
}

static bool listed(const char *name)
{
    DIR *d = opendir(".");
    struct dirent *e;
    bool found = false;
    while (d && (e = readdir(d)))
        found = found || strcmp(e->d_name, name) == 0;
    closedir(d);
    return found;
}

/* Every byte but NUL and '/' stands in one of these. */
static void names_of_any_bytes(void)
{
    char name[NAME_BYTES + 2];
    int next = 1;
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < NAME_BYTES; k++, next++) {
            while ((next & 255) == 0 || (next & 255) == '/')
                next++;
            name[k] = (char)next;
        }
        name[NAME_BYTES] = '\0';
        WANT(put(name, "here") && contains(name, "here") && listed(name));
        WANT(rename(name, "plain") == 0 && rename("plain", name) == 0 && link(name, "second") == 0);
        WANT(unlink("second") == 0 && unlink(name) == 0 && !exists(name));
        WANT(mkdir(name, 0755) == 0 && listed(name) && rmdir(name) == 0);
        WANT(symlink(name, "s") == 0 && unlink("s") == 0 && symlink("x", name) == 0 &&
             unlink(name) == 0);
        next += 7; /* so that bytes move to other places */
    }
    WANT(put("e\xcc\x81", "1") && !exists("\xc3\xa9")); /* no normalization, no folding of case */
    WANT(put("Case", "2") && !exists("case"));
    memset(name, 'x', NAME_BYTES + 1);
    name[NAME_BYTES + 1] = '\0';
    FAILS(open(name, O_CREAT | O_RDWR, 0644), ENAMETOOLONG);
    FAILS(mkdir(name, 0755), ENAMETOOLONG);
    FAILS(symlink("x", name), ENAMETOOLONG);
    FAILS(mknod(name, S_IFIFO | 0644, 0), ENAMETOOLONG);
    FAILS(link("Case", name), ENAMETOOLONG);
    FAILS(rename("Case", name), ENAMETOOLONG);
    FAILS(unlink(name), ENAMETOOLONG);
    FAILS(access(name, F_OK), ENAMETOOLONG);
}

static void path_max(void)
{
    char path[PATH_MAX + 300] = ".", name[201];
    memset(name, 'd', 200);
    name[200] = '\0';
    while (strlen(path) + 201 < PATH_MAX - 1) {
        strcat(path, "/");
        strcat(path, name);
        WANT(mkdir(path, 0755) == 0);
    }
    size_t used = strlen(path), left = PATH_MAX - 1 - used - 1;
    path[used] = '/';
    memset(path + used + 1, 'f', left);
    path[used + 1 + left] = '\0';
    WANT(strlen(path) == PATH_MAX - 1 && put(path, "deep") && contains(path, "deep"));
    strcat(path, "f");
    FAILS(open(path, O_RDONLY), ENAMETOOLONG);
    path[used] = '\0';
    /* deeper than any path can say */
    WANT(chdir(path) == 0);
    for (int i = 0; i < 20; i++)
        WANT(mkdir(name, 0755) == 0 && chdir(name) == 0);
    WANT(put("bottom", "bottom") && contains("bottom", "bottom"));
    for (int i = 0; i < 20; i++)
        WANT((i > 0 || unlink("bottom") == 0) && chdir("..") == 0 && rmdir(name) == 0);
}

static int rename2(const char *a, const char *b, unsigned flags)
{
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, flags);
}

static void rename_noreplace(void)
{
    WANT(put("a", "A") && put("b", "B") && mkdir("d", 0755) == 0);
    FAILS(rename2("a", "b", RENAME_NOREPLACE), EEXIST);
    FAILS(rename2("a", "d", RENAME_NOREPLACE), EEXIST);
    FAILS(rename2("a", "a", RENAME_NOREPLACE), EEXIST);
    WANT(rename2("a", "c", RENAME_NOREPLACE) == 0 && contains("c", "A") && !exists("a"));
    WANT(rename2("d", "e", RENAME_NOREPLACE) == 0);
    FAILS(rename2("nothing", "x", RENAME_NOREPLACE), ENOENT);
    FAILS(rename2("c", "b", RENAME_NOREPLACE | RENAME_EXCHANGE), EINVAL);
    FAILS(rename2("c", "b", 1u << 10), EINVAL);
}

static void rename_exchange(void)
{
    struct stat a, b, d, e;
    WANT(put("a", "A") && put("b", "B") && mkdir("d", 0755) == 0 && mkdir("e", 0700) == 0 &&
         put("d/in", "in"));
    WANT(stat("a", &a) == 0 && stat("b", &b) == 0 && stat("d", &d) == 0 && stat("e", &e) == 0);
    WANT(rename2("a", "b", RENAME_EXCHANGE) == 0 && contains("a", "B") && contains("b", "A"));
    WANT(rename2("d", "e", RENAME_EXCHANGE) == 0 &&
         contains("e/in", "in")); /* not empty: no matter */
    WANT(rename2("a", "e", RENAME_EXCHANGE) == 0 && contains("a/in", "in") && contains("e", "B"));
    WANT(mkdir("sub", 0755) == 0 && rename2("sub", "a/in", RENAME_EXCHANGE) == 0);
    WANT(contains("sub", "in") && chdir("a/in/..") == 0 && chdir("..") == 0);
    WANT(stat("a", &a) == 0 && a.st_nlink == 3 && stat(".", &b) == 0 && b.st_nlink == 4);
    FAILS(rename2("a", "a/in", RENAME_EXCHANGE), EINVAL);
    FAILS(rename2("a/in", "a", RENAME_EXCHANGE), EINVAL);
    FAILS(rename2("a", "nothing", RENAME_EXCHANGE), ENOENT);
}

static void rename_matrix(void)
{
    struct stat st;
    WANT(put("f", "F") && mkdir("d", 0755) == 0 && mkdir("full", 0755) == 0 && put("full/x", "x"));
    FAILS(rename("f", "d"), EISDIR);
    FAILS(rename("d", "f"), ENOTDIR);
    errno = 0;
    WANT(rename("d", "full") == -1 && exists("full/x"));
    FAILS(rename("full", "full/y"), EINVAL);
    FAILS(rename("full/x", "full/x/y"), ENOTDIR);
    WANT(rename("full", "d") == 0 && contains("d/x", "x") &&
         !exists("full")); /* onto an empty one */
    WANT(link("f", "g") == 0 && rename("f", "g") == 0 && exists("f") &&
         exists("g")); /* same inode */
    WANT(mkdir("p", 0755) == 0 && rename("d", "p/d") == 0 && stat("p", &st) == 0 &&
         st.st_nlink == 3);
    WANT(stat("p/d/..", &st) == 0);
    ino_t up = st.st_ino;
    WANT(stat("p", &st) == 0 && st.st_ino == up);
    int fd = open("p/d", O_RDONLY | O_DIRECTORY);
    WANT(fd >= 0 && rename("p/d", "moved") == 0 && fstatat(fd, "x", &st, 0) == 0);
    WANT(openat(fd, "..", O_RDONLY | O_DIRECTORY) >= 0 && fstatat(fd, "..", &st, 0) == 0 &&
         st.st_ino != up);
}

static void o_path(void)
{
    char buf[16] = "";
    struct stat st;
    WANT(put("f", "F") && symlink("target", "s") == 0 && mkdir("d", 0755) == 0);
    int fd = open("f", O_PATH);
    WANT(fd >= 0 && fstat(fd, &st) == 0 && st.st_size == 1);
    FAILS(read(fd, buf, 1), EBADF);
    FAILS(fchmod(fd, 0600), EBADF);
    FAILS(fgetxattr(fd, "user.x", buf, 1) == -1 ? -1 : 0, EBADF);
    WANT(linkat(fd, "", AT_FDCWD, "again", AT_EMPTY_PATH) == 0 && contains("again", "F"));
    int s = open("s", O_PATH | O_NOFOLLOW);
    WANT(s >= 0 && fstat(s, &st) == 0 && S_ISLNK(st.st_mode) &&
         readlinkat(s, "", buf, sizeof(buf)) == 6);
    int d = open("d", O_PATH | O_DIRECTORY);
    WANT(d >= 0 && openat(d, "in", O_CREAT | O_RDWR, 0644) >= 0 && fchdir(d) == 0 && exists("in") &&
         chdir("..") == 0);
    WANT(unlink("f") == 0 && fstat(fd, &st) == 0 && st.st_nlink == 1);
}

static void links(void)
{
    char name[16];
    struct stat st;
    int n = 1;
    if (getenv("LINKS") && atoi(getenv("LINKS")) == 0)
        return;
    WANT(put("f", "F"));
    for (; n < LINKS_MAX + 10; n++) {
        (void)snprintf(name, sizeof(name), "l%d", n);
        if (link("f", name) < 0)
            break;
    }
    int e = errno;
    WANT(e == EMLINK && n == LINKS_MAX && stat("f", &st) == 0 && st.st_nlink == LINKS_MAX);
    WANT(unlink("l64999") == 0 && link("f", "one more") == 0 && contains("l30000", "F"));
    while (--n > 0) {
        (void)snprintf(name, sizeof(name), "l%d", n);
        (void)unlink(name);
    }
    WANT(stat("f", &st) == 0 && st.st_nlink == 2);
}

static void directory_links(void)
{
    struct stat st;
    char name[32];
    for (int i = 0; i < 300; i++) {
        (void)snprintf(name, sizeof(name), "d%d", i);
        WANT(mkdir(name, 0755) == 0);
    }
    WANT(stat(".", &st) == 0 && st.st_nlink == 302);
    for (int i = 0; i < 150; i++) {
        (void)snprintf(name, sizeof(name), "d%d", i);
        WANT(rmdir(name) == 0);
    }
    WANT(stat(".", &st) == 0 && st.st_nlink == 152);
    FAILS(link("d200", "x"), EPERM);
    FAILS(unlink("d200"), EISDIR);
    FAILS(rmdir("."), EINVAL);
    FAILS(rmdir("d200/.."), ENOTEMPTY);
}

/* --- listing ------------------------------------------------------------------------------ */

static int large(void)
{
    const char *n = getenv("LARGE");
    return n ? atoi(n) : 20000;
}

/* Each is listed exactly once, in pieces as the kernel asks for them. */
static void large_directory(void)
{
    char name[32];
    int n = large(), got = 0;
    unsigned char *seen = calloc((size_t)n, 1);
    WANT(seen);
    for (int i = 0; i < n; i++) {
        (void)snprintf(name, sizeof(name), "entry-%07d", i);
        WANT(mknod(name, S_IFREG | 0644, 0) == 0);
    }
    for (int pass = 0; pass < 2; pass++) {
        DIR *d = opendir(".");
        struct dirent *e;
        while ((e = readdir(d))) {
            if (e->d_name[0] == '.')
                continue;
            int i = atoi(e->d_name + 6);
            WANT(e->d_type == DT_REG && i >= 0 && i < n && seen[i] == pass);
            seen[i]++, got++;
        }
        closedir(d);
    }
    WANT(got == 2 * n);
    (void)snprintf(name, sizeof(name), "entry-%07d", n / 2);
    WANT(exists(name) && unlink(name) == 0 && !exists(name));
    /* Removing while listing, as rm -r does, finds all of them. */
    DIR *d = opendir(".");
    struct dirent *e;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.')
            WANT(unlink(e->d_name) == 0);
    closedir(d);
    d = opendir(".");
    WANT(readdir(d) && readdir(d) && !readdir(d) && errno == 0);
}

#define STEPS 3000

/* Positions stay good while entries come and go: from any of them on, what was there all the time
 * comes exactly once, in the same order. */
static void telldir_stable(void)
{
    static long pos[STEPS + 3];
    static char order[STEPS + 2][16];
    static bool gone[STEPS + 2];
    char name[32];
    int n = 0;
    struct dirent *e;
    for (int i = 0; i < STEPS; i++) {
        (void)snprintf(name, sizeof(name), "e%d", i);
        WANT(put(name, ""));
    }
    DIR *d = opendir(".");
    for (pos[0] = telldir(d); (e = readdir(d)); pos[n] = telldir(d))
        (void)snprintf(order[n++], sizeof(order[0]), "%.15s", e->d_name);
    WANT(n == STEPS + 2);
    for (int i = 0; i < n; i += 3)
        if (order[i][0] == 'e')
            gone[i] = unlink(order[i]) == 0;
    for (int i = 0; i < 500; i++) {
        (void)snprintf(name, sizeof(name), "new%d", i);
        WANT(put(name, ""));
    }
    for (int from = 0; from < n; from += 97) {
        seekdir(d, pos[from]);
        int at = from;
        while ((e = readdir(d))) {
            if (strncmp(e->d_name, "new", 3) == 0)
                continue;
            while (at < n && gone[at])
                at++;
            WANT(at < n && strcmp(e->d_name, order[at]) == 0);
            at++;
        }
        while (at < n && gone[at])
            at++;
        WANT(at == n);
    }
    rewinddir(d);
    for (n = 0; readdir(d); n++)
        ;
    WANT(n == STEPS + 2 - 1000 + 500);
}

#define RENAMED 700

/* Who renames what he lists comes to an end; who saves what he lists (a new file renamed over the
 * old one) sees each name once. */
static void rename_while_listing(void)
{
    static int seen[RENAMED];
    char name[32], to[40];
    int renamed = 0, n = 0;
    struct dirent *e;
    for (int i = 0; i < RENAMED; i++) {
        (void)snprintf(name, sizeof(name), "f%d", i);
        WANT(put(name, ""));
    }
    DIR *d = opendir(".");
    while ((e = readdir(d)) && n < 4 * RENAMED) {
        if (e->d_name[0] != 'f')
            continue;
        n++;
        WANT(put("new", "") && rename("new", e->d_name) == 0);
        seen[atoi(e->d_name + 1)]++;
    }
    closedir(d);
    for (int i = 0; i < RENAMED; i++)
        WANT(seen[i] == 1);
    d = opendir(".");
    while ((e = readdir(d)) && renamed < 4 * RENAMED) {
        if (e->d_name[0] == '.')
            continue;
        (void)snprintf(to, sizeof(to), "g%d", renamed++);
        WANT(rename(e->d_name, to) == 0);
    }
    closedir(d);
    WANT(renamed >= RENAMED && renamed < 4 * RENAMED);
}

static void types(void)
{
    struct stat st;
    struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "sock"};
    WANT(mkfifo("fifo", 0644) == 0 && mknod("chr", S_IFCHR | 0600, makedev(300, 70000)) == 0);
    WANT(mknod("blk", S_IFBLK | 0600, makedev(7, 7)) == 0 && mkdir("dir", 0755) == 0 &&
         symlink("x", "lnk") == 0);
    WANT(stat("chr", &st) == 0 && S_ISCHR(st.st_mode) && major(st.st_rdev) == 300 &&
         minor(st.st_rdev) == 70000);
    int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
    WANT(bind(s, (struct sockaddr *)&un, sizeof(un)) == 0 && listen(s, 1) == 0);
    WANT(connect(c, (struct sockaddr *)&un, sizeof(un)) == 0);
    int f = open("fifo", O_RDWR);
    char b;
    WANT(f >= 0 && write(f, "x", 1) == 1 && read(f, &b, 1) == 1 && b == 'x');
    DIR *d = opendir(".");
    struct dirent *e;
    int n = 0;
    while ((e = readdir(d))) {
        WANT(lstat(e->d_name, &st) == 0 && (mode_t)DTTOIF(e->d_type) == (st.st_mode & S_IFMT));
        WANT(st.st_ino == e->d_ino);
        n++;
    }
    WANT(n == 8);
}

static void symlinks(void)
{
    char target[4097], buf[5000];
    memset(target, 't', 4096);
    target[4095] = '\0';
    WANT(symlink(target, "long") == 0 && readlink("long", buf, sizeof(buf)) == 4095 &&
         memcmp(buf, target, 4095) == 0);
    WANT(readlink("long", buf, 10) == 10);
    FAILS(symlink("", "empty"), ENOENT);
    WANT(symlink("loop", "loop") == 0);
    FAILS(open("loop", O_RDONLY), ELOOP);
    WANT(symlink("f", "s") == 0);
    FAILS(open("s", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
    FAILS(open("s", O_RDONLY), ENOENT);
    WANT(open("s", O_CREAT | O_RDWR, 0644) >= 0 && exists("f"));
    FAILS(open("s", O_RDONLY | O_NOFOLLOW), ELOOP);
    WANT(link("s", "hard") == 0 && readlink("hard", buf, sizeof(buf)) == 1);
    WANT(linkat(AT_FDCWD, "s", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW) == 0);
    FAILS(readlink("followed", buf, sizeof(buf)), EINVAL);
    FAILS(mkdir("s", 0755), EEXIST);
    FAILS(rmdir("s"), ENOTDIR);
}

static void removed_cwd(void)
{
    char buf[PATH_MAX];
    WANT(mkdir("d", 0755) == 0 && chdir("d") == 0 && rmdir("../d") == 0);
    FAILS(open("x", O_CREAT | O_RDWR, 0644), ENOENT);
    FAILS(mkdir("x", 0755), ENOENT);
    FAILS(getcwd(buf, sizeof(buf)) ? 0 : -1, ENOENT);
    struct stat st;
    WANT(stat(".", &st) == 0 && st.st_nlink == 0);
    WANT(chdir("..") == 0); /* the kernel still knows it */
}

/* --- who is told, who may ------------------------------------------------------------------- */

static uint32_t next_event(int fd, char *name, uint32_t *cookie)
{
    static char buf[8192];
    static ssize_t have, at;
    if (at >= have) {
        have = read(fd, buf, sizeof(buf));
        at = 0;
    }
    if (have <= 0)
        return 0;
    struct inotify_event *e = (struct inotify_event *)(void *)(buf + at);
    at += (ssize_t)(sizeof(*e) + e->len);
    (void)snprintf(name, NAME_BYTES + 1, "%s", e->len ? e->name : "");
    *cookie = e->cookie;
    return e->mask;
}

static void inotify_events(void)
{
    char name[NAME_BYTES + 1];
    uint32_t cookie, first;
    WANT(mkdir("d", 0755) == 0);
    int in = inotify_init1(IN_NONBLOCK);
    WANT(in >= 0 &&
         inotify_add_watch(
             in, "d", IN_ALL_EVENTS & ~(uint32_t)(IN_ACCESS | IN_CLOSE_NOWRITE | IN_OPEN)) >= 0);
    WANT(put("d/f", "x"));
    WANT(next_event(in, name, &cookie) == IN_CREATE && strcmp(name, "f") == 0);
    WANT(next_event(in, name, &cookie) == IN_MODIFY &&
         next_event(in, name, &cookie) == IN_CLOSE_WRITE);
    WANT(chmod("d/f", 0600) == 0 && next_event(in, name, &cookie) == IN_ATTRIB);
    WANT(truncate("d/f", 0) == 0 && next_event(in, name, &cookie) == IN_MODIFY);
    WANT(rename("d/f", "d/g") == 0);
    WANT(next_event(in, name, &first) == IN_MOVED_FROM && strcmp(name, "f") == 0);
    WANT(next_event(in, name, &cookie) == IN_MOVED_TO && strcmp(name, "g") == 0 && first == cookie);
    WANT(mkdir("d/sub", 0755) == 0 && next_event(in, name, &cookie) == (IN_CREATE | IN_ISDIR));
    WANT(unlink("d/g") == 0);
    /* the inode's own "attributes" comes first where it is watched; here only the directory is */
    WANT(next_event(in, name, &cookie) == IN_DELETE && strcmp(name, "g") == 0);
    WANT(rmdir("d/sub") == 0 && next_event(in, name, &cookie) == (IN_DELETE | IN_ISDIR));
    WANT(rmdir("d") == 0 && next_event(in, name, &cookie) == IN_DELETE_SELF);
}

static void in_sticky(void)
{
    FAILS(unlink("sticky/theirs"), EPERM);
    FAILS(rename("sticky/theirs", "sticky/x"), EPERM);
    FAILS(rmdir("sticky/dir"), EPERM);
    WANT(put("sticky/mine", "m"));
    FAILS(rename("sticky/mine", "sticky/theirs"), EPERM);
    FAILS(rename2("sticky/mine", "sticky/theirs", RENAME_EXCHANGE), EPERM);
    WANT(rename("sticky/mine", "sticky/mine2") == 0 && unlink("sticky/mine2") == 0);
}

static void sticky(void)
{
    WANT(mkdir("sticky", 0755) == 0 && chmod("sticky", 01777) == 0);
    WANT(put("sticky/theirs", "t") && mkdir("sticky/dir", 0777) == 0);
    WANT(posix_child(NOBODY, in_sticky));
}

static void in_denied(void)
{
    char b;
    int fd =
        open("shared/zero", O_CREAT | O_RDWR, 0); /* a descriptor that its mode would not allow */
    WANT(fd >= 0 && write(fd, "x", 1) == 1);
    FAILS(open("shared/zero", O_RDWR), EACCES);
    FAILS(open("private/f", O_RDONLY), EACCES);
    FAILS(open("readonly", O_WRONLY), EACCES);
    FAILS(open("shared/x/f", O_CREAT | O_RDWR, 0644), EACCES);
    FAILS(chmod("readonly", 0777), EPERM);
    FAILS(chown("readonly", NOBODY, NOBODY), EPERM);
    FAILS(utimensat(AT_FDCWD, "readonly", (struct timespec[2]){{1, 0}, {1, 0}}, 0), EPERM);
    FAILS(utimensat(AT_FDCWD, "readonly", NULL, 0), EACCES);
    FAILS(mknod("shared/dev", S_IFCHR | 0666, makedev(1, 3)), EPERM);
    WANT(access("readonly", R_OK) == 0 && access("readonly", W_OK) == -1 &&
         pread(open("readonly", O_RDONLY), &b, 1, 0) == 1);
}

static void permissions(void)
{
    WANT(mkdir("private", 0700) == 0 && put("private/f", "x") && put("readonly", "x"));
    WANT(mkdir("shared", 0755) == 0 && chmod("shared", 0777) == 0 && mkdir("shared/x", 0755) == 0);
    WANT(posix_child(NOBODY, in_denied));
}

static void in_setgid(void)
{
    struct stat st;
    WANT(put("g/f", "x") && mkdir("g/d", 0755) == 0 && stat("g/f", &st) == 0 && st.st_gid == 4242 &&
         st.st_uid == NOBODY);
    WANT(stat("g/d", &st) == 0 && st.st_gid == 4242 && (st.st_mode & S_ISGID));
    int fd = open("g/x", O_CREAT | O_RDWR, 02775); /* not of that group: no setgid for it */
    WANT(fd >= 0 && fstat(fd, &st) == 0 && !(st.st_mode & S_ISGID));
}

static void setgid_directory(void)
{
    WANT(mkdir("g", 0755) == 0 && chown("g", 0, 4242) == 0 && chmod("g", 02777) == 0);
    WANT(posix_child(NOBODY, in_setgid));
}

static const struct posix_case cases[] = {
    {"names_of_any_bytes", names_of_any_bytes},
    {"path_max", path_max},
    {"rename_noreplace", rename_noreplace},
    {"rename_exchange", rename_exchange},
    {"rename_matrix", rename_matrix},
    {"o_path", o_path},
    {"links", links},
    {"directory_links", directory_links},
    {"large_directory", large_directory},
    {"telldir_stable", telldir_stable},
    {"rename_while_listing", rename_while_listing},
    {"types", types},
    {"symlinks", symlinks},
    {"removed_cwd", removed_cwd},
    {"inotify_events", inotify_events},
    {"sticky", sticky},
    {"permissions", permissions},
    {"setgid_directory", setgid_directory},
};
POSIX_MAIN(cases)
