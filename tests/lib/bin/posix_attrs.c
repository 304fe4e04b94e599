/* posix_attrs.c: attributes: times, set-id bits, extended attributes, ACLs (tests/lib/posix.h).
 *
 * Owns nothing. ACLs and security.capability are set in their binary form, as the tools do. Thread:
 * main; cases about rights run a child without any. */
#include "tests/lib/posix.h"

#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/xattr.h>

#define ACL_ACCESS  "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define CAPS        "security.capability"

static struct stat stat_of(const char *name)
{
    struct stat st;
    if (lstat(name, &st) < 0)
        memset(&st, 0, sizeof(st));
    return st;
}

static mode_t mode_of(const char *name)
{
    return stat_of(name).st_mode & 07777;
}

static bool later(struct timespec a, struct timespec b)
{
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

static bool same(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static int set_times(const char *name, struct timespec a, struct timespec m)
{
    struct timespec t[2] = {a, m};
    return utimensat(AT_FDCWD, name, t, AT_SYMLINK_NOFOLLOW);
}

/* --- times -------------------------------------------------------------------------------- */

static void times_set(void)
{
    const struct timespec omit = {0, UTIME_OMIT}, now = {0, UTIME_NOW}, t = {1234567890, 123456789};
    struct stat before, st;
    WANT(posix_file("f", "x", 1) >= 0 && set_times("f", t, (struct timespec){1, 2}) == 0);
    st = stat_of("f");
    WANT(same(st.st_atim, t) && st.st_mtim.tv_sec == 1 && st.st_mtim.tv_nsec == 2);
    before = st;
    WANT(set_times("f", omit, t) == 0 && same(stat_of("f").st_atim, before.st_atim) &&
         same(stat_of("f").st_mtim, t));
    WANT(later(stat_of("f").st_ctim, before.st_ctim));
    WANT(set_times("f", now, omit) == 0 && later(stat_of("f").st_atim, t) &&
         same(stat_of("f").st_mtim, t));
    before = stat_of("f");
    WANT(set_times("f", omit, omit) == 0 &&
         same(stat_of("f").st_ctim, before.st_ctim)); /* nothing at all */
    WANT(symlink("f", "s") == 0 && set_times("s", t, t) == 0 && same(stat_of("s").st_mtim, t));
    WANT(mkdir("d", 0755) == 0 && set_times("d", t, t) == 0 && same(stat_of("d").st_mtim, t));
    FAILS(set_times("f", t, (struct timespec){1, 1000000000}), EINVAL);
}

/* What ext4 keeps with inodes of 256 bytes: 1901 to 2446. */
static void times_range(void)
{
    const time_t at[] = {-1,           -86400,       -2147483647ll, 0,
                         2147483648ll, 4294967296ll, 9223372037ll,  15032385534ll};
    WANT(posix_file("f", "x", 1) >= 0);
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        struct timespec t = {at[i], 5};
        WANT(set_times("f", t, t) == 0 && same(stat_of("f").st_mtim, t) &&
             same(stat_of("f").st_atim, t));
    }
    WANT(set_times("f", (struct timespec){-(1ll << 40), 0}, (struct timespec){1ll << 40, 0}) == 0);
    WANT(stat_of("f").st_atim.tv_sec == -2147483648ll &&
         stat_of("f").st_mtim.tv_sec == 15032385535ll);
}

static struct stat before;

/* What changed since the last call: letters of m (mtime), c (ctime). */
static const char *touched(const char *name)
{
    static char r[3];
    struct stat st = stat_of(name), b = before;
    char *p = r;
    if (later(st.st_mtim, b.st_mtim))
        *p++ = 'm';
    if (later(st.st_ctim, b.st_ctim))
        *p++ = 'c';
    *p = '\0';
    return r;
}

#define TOUCHES(op, name, what)                                 \
    do {                                                        \
        before = stat_of(name);                                 \
        usleep(12000); /* ext4 counts in ticks of the kernel */ \
        WANT(op);                                               \
        WANT(strcmp(touched(name), what) == 0);                 \
    } while (0)

static void times_follow(void)
{
    char b;
    int fd = posix_file("f", "0123456789", 10);
    WANT(fd >= 0 && mkdir("d", 0755) == 0);
    TOUCHES(pread(fd, &b, 1, 0) == 1, "f", "");
    TOUCHES(pwrite(fd, "x", 1, 0) == 1, "f", "mc");
    TOUCHES(ftruncate(fd, 5) == 0, "f", "mc");
    TOUCHES(ftruncate(fd, 5) == 0, "f", "mc");
    TOUCHES(fallocate(fd, 0, 0, 100) == 0, "f", "mc");
    TOUCHES(chmod("f", 0600) == 0, "f", "c");
    TOUCHES(chown("f", 1, 1) == 0, "f", "c");
    TOUCHES(link("f", "g") == 0, "f", "c");
    TOUCHES(rename("g", "h") == 0, "f", "c");
    TOUCHES(unlink("h") == 0, "f", "c");
    TOUCHES(setxattr("f", "user.x", "1", 1, 0) == 0, "f", "c");
    TOUCHES(removexattr("f", "user.x") == 0, "f", "c");
    TOUCHES(mknod("d/n", S_IFREG | 0644, 0) == 0, "d", "mc");
    TOUCHES(link("f", "d/l") == 0, "d", "mc");
    TOUCHES(rename("d/l", "d/m") == 0, "d", "mc");
    TOUCHES(pwrite(fd, "y", 1, 0) == 1, "d", "");
    TOUCHES(unlink("d/m") == 0, "d", "mc");
    TOUCHES(mkdir("d/s", 0755) == 0, "d", "mc");
    TOUCHES(symlink("x", "d/y") == 0, "d", "mc");
    TOUCHES(rename("d/n", "n") == 0, "d", "mc");
    TOUCHES(rename("n", "d/y") == 0, "d", "mc");
    TOUCHES(rmdir("d/s") == 0, "d", "mc");
    TOUCHES(rename("d", "e") == 0 && rename("e", "d") == 0, "d", "c");
    TOUCHES(access("d/y", F_OK) == 0, "d", "");
}

/* --- set-id bits, capabilities ------------------------------------------------------------ */

static int shared_fd;

static void in_write(void)
{
    WANT(pwrite(shared_fd, "x", 1, 0) == 1);
}

static void in_truncate(void)
{
    WANT(truncate("f", 3) == 0);
}

static void in_open_trunc(void)
{
    WANT(open("f", O_WRONLY | O_TRUNC) >= 0);
}

static void in_fallocate(void)
{
    WANT(fallocate(shared_fd, 0, 0, 5000) == 0);
}

static void in_mmap(void)
{
    int fd = open("f", O_RDWR);
    char *m = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    WANT(m != MAP_FAILED);
    m[0] = 'm';
    WANT(msync(m, 1, MS_SYNC) == 0);
}

static void in_direct(void)
{
    char *p;
    int fd = open("f", O_RDWR | O_DIRECT);
    WANT(posix_memalign((void **)&p, 4096, 4096) == 0);
    memset(p, 'd', 4096);
    WANT(fd >= 0 && pwrite(fd, p, 4096, 0) == 4096);
}

static void suid_killed(void)
{
    void (*const by[])(void) = {in_write, in_truncate, in_open_trunc, in_fallocate, in_direct};
    WANT((shared_fd = posix_file("f", "0123456789", 10)) >= 0);
    for (size_t i = 0; i < sizeof(by) / sizeof(by[0]); i++) {
        WANT(chown("f", 0, 0) == 0 && chmod("f", 06777) == 0 && mode_of("f") == 06777);
        WANT(posix_child(NOBODY, by[i]));
        WANT(mode_of("f") == 0777);
    }
    WANT(chmod("f", 06777) == 0 && pwrite(shared_fd, "r", 1, 0) == 1 &&
         mode_of("f") == 06777); /* root may keep them */
    WANT(chmod("f", 02766) == 0 && posix_child(NOBODY, in_fallocate) && mode_of("f") == 0766);
    WANT(chmod("f", 06777) == 0 && chown("f", 1, 1) == 0 && mode_of("f") == 0777);
    WANT(mkdir("d", 0755) == 0 && chmod("d", 06777) == 0 && chown("d", 1, 1) == 0 &&
         mode_of("d") == 06777);
    WANT(chown("f", NOBODY, NOBODY) == 0 && chmod("f", 0666) == 0 && posix_child(NOBODY, in_mmap));
}

static void in_chmod_setgid(void)
{
    WANT(chmod("f", 02755) == 0 && mode_of("f") == 0755); /* not of the file's group */
}

static void setgid_refused(void)
{
    WANT(posix_file("f", "x", 1) >= 0 && chown("f", NOBODY, 4242) == 0);
    WANT(posix_child(NOBODY, in_chmod_setgid));
}

static bool put_caps(void)
{
    const unsigned char net_raw[20] = {1, 0, 0, 2, 0, 0x20};
    char b[64];
    return setxattr("f", CAPS, net_raw, sizeof(net_raw), 0) == 0 &&
           getxattr("f", CAPS, b, sizeof(b)) == 20;
}

static bool caps_gone(void)
{
    char b[64];
    return getxattr("f", CAPS, b, sizeof(b)) == -1 && errno == ENODATA;
}

static void capabilities_killed(void)
{
    char b[64];
    WANT((shared_fd = posix_file("f", "0123456789", 10)) >= 0);
    WANT(put_caps() && chmod("f", 0755) == 0 && !caps_gone());
    WANT(pwrite(shared_fd, "x", 1, 0) == 1 && caps_gone());
    WANT(put_caps() && ftruncate(shared_fd, 3) == 0 && caps_gone());
    WANT(put_caps() && chown("f", 1, 1) == 0 && caps_gone());
    WANT(put_caps() && fallocate(shared_fd, 0, 0, 9999) == 0 && caps_gone());
    WANT(put_caps() && chmod("f", 0777) == 0 && posix_child(NOBODY, in_write) && caps_gone());
    WANT(put_caps() && setxattr("f", "user.x", "1", 1, 0) == 0 && !caps_gone());
    WANT(pwrite(shared_fd, "x", 1, 0) == 1 && caps_gone() &&
         getxattr("f", "user.x", b, sizeof(b)) == 1);
}

/* --- extended attributes -------------------------------------------------------------------- */

static void xattrs(void)
{
    static char value[65537], back[65537];
    char list[64];
    WANT(posix_file("f", "x", 1) >= 0 && mkdir("d", 0755) == 0 && symlink("f", "s") == 0);
    WANT(setxattr("f", "user.a", "value", 5, XATTR_CREATE) == 0 &&
         getxattr("f", "user.a", NULL, 0) == 5);
    WANT(getxattr("f", "user.a", back, sizeof(back)) == 5 && memcmp(back, "value", 5) == 0);
    FAILS(getxattr("f", "user.a", back, 4), ERANGE);
    FAILS(setxattr("f", "user.a", "v", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr("f", "user.b", "v", 1, XATTR_REPLACE), ENODATA);
    WANT(setxattr("f", "user.a", "", 0, XATTR_REPLACE) == 0 &&
         getxattr("f", "user.a", back, 9) == 0);
    WANT(setxattr("f", "trusted.t", "t", 1, 0) == 0 && listxattr("f", NULL, 0) == 17);
    WANT(listxattr("f", list, sizeof(list)) == 17);
    FAILS(listxattr("f", list, 5), ERANGE);
    WANT(removexattr("f", "user.a") == 0);
    FAILS(removexattr("f", "user.a"), ENODATA);
    FAILS(getxattr("f", "user.a", back, 9), ENODATA);
    memset(value, 'v', sizeof(value));
    FAILS(setxattr("f", "user.big", value, 65537, 0), E2BIG);
    FAILS(lsetxattr("s", "user.s", "v", 1, 0), EPERM);
    WANT(lsetxattr("s", "trusted.s", "v", 1, 0) == 0 && lgetxattr("s", "trusted.s", back, 9) == 1);
    FAILS(setxattr("f", "unknown.x", "v", 1, 0), EOPNOTSUPP);
    FAILS(setxattr("f", "user.", "v", 1, 0), EINVAL);
    WANT(setxattr("d", "user.d", "v", 1, 0) == 0 && setxattr("f", "user.\xff\n", "v", 1, 0) == 0);
    memset(value, 'n', 300);
    memcpy(value, "user.", 5);
    value[255] = '\0';
    WANT(setxattr("f", value, "v", 1, 0) == 0 && getxattr("f", value, back, 9) == 1);
    memcpy(value + 255, "nn", 3);
    FAILS(setxattr("f", value, "v", 1, 0), ERANGE);
}

static void in_trusted(void)
{
    char b[100];
    FAILS(getxattr("f", "trusted.t", b, sizeof(b)), ENODATA);
    WANT(listxattr("f", b, sizeof(b)) == 7); /* user.a alone */
    FAILS(setxattr("f", "user.b", "v", 1, 0), EACCES);
    FAILS(setxattr("f", "security.x", "v", 1, 0), EPERM);
}

static void xattr_rights(void)
{
    WANT(posix_file("f", "x", 1) >= 0 && setxattr("f", "user.a", "1", 1, 0) == 0 &&
         setxattr("f", "trusted.t", "1", 1, 0) == 0);
    WANT(posix_child(NOBODY, in_trusted));
}

/* --- access control lists ------------------------------------------------------------------- */

struct acl {
    uint32_t version;
    struct {
        uint16_t tag, perm;
        uint32_t id;
    } e[5];
};

/* user::rw-, user:65534:uperm, group::r--, mask, other::--- */
static struct acl acl_for_nobody(uint16_t uperm, uint16_t mask)
{
    return (struct acl){2,
                        {{1, 6, UINT32_MAX},
                         {2, uperm, NOBODY},
                         {4, 4, UINT32_MAX},
                         {16, mask, UINT32_MAX},
                         {32, 0, UINT32_MAX}}};
}

static void in_may_write(void)
{
    WANT(open("f", O_RDWR) >= 0);
}

static void in_may_read(void)
{
    WANT(open("f", O_RDONLY) >= 0);
    FAILS(open("f", O_WRONLY), EACCES);
}

static void in_may_nothing(void)
{
    FAILS(open("f", O_RDONLY), EACCES);
}

static void acl_access(void)
{
    struct acl a = acl_for_nobody(6, 6), got;
    WANT(posix_file("f", "x", 1) >= 0 && chmod("f", 0600) == 0 &&
         posix_child(NOBODY, in_may_nothing));
    WANT(setxattr("f", ACL_ACCESS, &a, sizeof(a), 0) == 0 && mode_of("f") == 0660);
    WANT(posix_child(NOBODY, in_may_write));
    WANT(chmod("f", 0640) == 0 && getxattr("f", ACL_ACCESS, &got, sizeof(got)) == sizeof(got));
    WANT(got.e[3].perm == 4 && got.e[2].perm == 4 &&
         got.e[1].perm == 6); /* the mask follows the mode */
    WANT(posix_child(NOBODY, in_may_read));
    a = acl_for_nobody(0, 7);
    WANT(setxattr("f", ACL_ACCESS, &a, sizeof(a), 0) == 0 && chmod("f", 0666) == 0 &&
         posix_child(NOBODY, in_may_nothing));
    WANT(removexattr("f", ACL_ACCESS) == 0 && posix_child(NOBODY, in_may_write));
    FAILS(setxattr("f", ACL_DEFAULT, &a, sizeof(a), 0), EACCES);
    a.e[0].tag = 99;
    FAILS(setxattr("f", ACL_ACCESS, &a, sizeof(a), 0), EINVAL);
}

static void in_sets_acl(void)
{
    struct acl a = acl_for_nobody(6, 6);
    WANT(setxattr("f", ACL_ACCESS, &a, sizeof(a), 0) == 0);
}

/* Who is not of the file's group loses the setgid bit by setting an ACL, as by chmod. */
static void acl_kills_setgid(void)
{
    WANT(posix_file("f", "x", 1) >= 0 && chown("f", NOBODY, 4242) == 0 && chmod("f", 02775) == 0);
    WANT(posix_child(NOBODY, in_sets_acl) && mode_of("f") == 0660);
    WANT(removexattr("f", ACL_ACCESS) == 0 && chown("f", NOBODY, NOBODY) == 0);
    WANT(chmod("f", 02775) == 0 && posix_child(NOBODY, in_sets_acl) && mode_of("f") == 02660);
}

static void acl_inherited(void)
{
    struct acl a = acl_for_nobody(7, 7), got;
    WANT(mkdir("d", 0755) == 0 && setxattr("d", ACL_DEFAULT, &a, sizeof(a), 0) == 0 &&
         mode_of("d") == 0755);
    (void)umask(077); /* does not count under a default ACL */
    int fd = open("d/f", O_CREAT | O_RDWR, 0664);
    WANT(fd >= 0 && mode_of("d/f") == 0660);
    WANT(getxattr("d/f", ACL_ACCESS, &got, sizeof(got)) == sizeof(got) && got.e[1].perm == 7 &&
         got.e[3].perm == 6);
    WANT(mkdir("d/sub", 0777) == 0 &&
         getxattr("d/sub", ACL_DEFAULT, &got, sizeof(got)) == sizeof(got));
    WANT(mode_of("d/sub") == 0670);
    WANT(symlink("x", "d/s") == 0 && mode_of("d/s") == 0777);
    fd = open("d", O_TMPFILE | O_RDWR, 0666);
    WANT(fd >= 0 && fgetxattr(fd, ACL_ACCESS, &got, sizeof(got)) == sizeof(got));
    WANT(removexattr("d", ACL_DEFAULT) == 0 && open("d/g", O_CREAT | O_RDWR, 0664) >= 0 &&
         mode_of("d/g") == 0600);
}

/* --- space ---------------------------------------------------------------------------------- */

static void space_counted(void)
{
    static char mib[1 << 20];
    struct statvfs a, b;
    int fd = posix_file("f", NULL, 0);
    memset(mib, 1, sizeof(mib));
    WANT(statvfs(".", &a) == 0 && a.f_namemax == 255 && a.f_bavail > 0 && a.f_bavail <= a.f_bfree &&
         a.f_bfree <= a.f_blocks);
    WANT(a.f_files > 0 && a.f_ffree <= a.f_files);
    for (int i = 0; i < 8; i++)
        WANT(write(fd, mib, sizeof(mib)) == sizeof(mib));
    WANT(fsync(fd) == 0 && stat_of("f").st_blocks >= (8 << 20) / 512 &&
         stat_of("f").st_blocks < (9 << 20) / 512);
    WANT(statvfs(".", &b) == 0 && b.f_blocks == a.f_blocks);
    WANT(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4 << 20) == 0 &&
         stat_of("f").st_blocks < (5 << 20) / 512);
    WANT(ftruncate(fd, 0) == 0 && stat_of("f").st_blocks == 0);
}

static const struct posix_case cases[] = {
    {"times_set", times_set},
    {"times_range", times_range},
    {"times_follow", times_follow},
    {"suid_killed", suid_killed},
    {"setgid_refused", setgid_refused},
    {"capabilities_killed", capabilities_killed},
    {"xattrs", xattrs},
    {"xattr_rights", xattr_rights},
    {"acl_access", acl_access},
    {"acl_kills_setgid", acl_kills_setgid},
    {"acl_inherited", acl_inherited},
    {"space_counted", space_counted},
};
POSIX_MAIN(cases)
